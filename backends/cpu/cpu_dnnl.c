/* SPDX-License-Identifier: Apache-2.0
 *
 * oneDNN 2.6 and 3.x behind cpu_dnnl.h. Between the two, memory descriptors became opaque handles and
 * "operation descriptor + primitive descriptor" became one call: the first part of this file hides that.
 */
#include "cpu_dnnl.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <string.h>

/* Weak, so that whichever OpenMP runtime oneDNN was built with is taken, and none is needed. */
extern void omp_set_num_threads(int count) __attribute__((weak));

enum { SOURCE = 0, WEIGHTS = 1, BIAS = 2, TARGET = 3, SCRATCH = 4, PACK_FROM = 5, PACK_TO = 6, SLOT_COUNT = 7 };
enum { MAX_AXES = 4 };

struct cpu_dnnl {
    const mmebm_host *host;
    uint32_t threads;
    dnnl_engine_t engine;
    dnnl_stream_t streams[];
};

typedef dnnl_memory_t op_memory[SLOT_COUNT];

struct cpu_op {
    cpu_dnnl *dnnl;
    cpu_op_spec spec;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive, reorder;
    size_t weight_bytes, scratch_bytes;
    int missing;
    char problem[96];
    op_memory memory[]; /* one set of handles a thread */
};

/* ---- the two interfaces */

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t descriptor_ref;
#define DESCRIPTOR_REF(d) (d)
#else
typedef const dnnl_memory_desc_t *descriptor_ref;
#define DESCRIPTOR_REF(d) (&(d))
#endif

typedef struct op_descriptors {
    dnnl_memory_desc_t source, weights, bias, target, plain; /* plain: f32 weights as the graph has them */
    uint32_t made;                                           /* how many of the five exist */
} op_descriptors;

static dnnl_status_t make_descriptor(dnnl_memory_desc_t *descriptor, int axes, const dnnl_dim_t *shape,
                                     dnnl_data_type_t type, const dnnl_dim_t *strides)
{
    dnnl_dims_t dims;
    memcpy(dims, shape, (size_t)axes * sizeof *shape);
#if DNNL_VERSION_MAJOR >= 3
    if (!strides) return dnnl_memory_desc_create_with_tag(descriptor, axes, dims, type, dnnl_format_tag_any);
    return dnnl_memory_desc_create_with_strides(descriptor, axes, dims, type, strides);
#else
    if (!strides) return dnnl_memory_desc_init_by_tag(descriptor, axes, dims, type, dnnl_format_tag_any);
    return dnnl_memory_desc_init_by_strides(descriptor, axes, dims, type, strides);
#endif
}

static void free_descriptors(op_descriptors *d)
{
#if DNNL_VERSION_MAJOR >= 3
    dnnl_memory_desc_t *all[5] = {&d->source, &d->weights, &d->bias, &d->target, &d->plain};
    for (uint32_t i = 0; i < d->made; ++i) dnnl_memory_desc_destroy(*all[i]);
#endif
    d->made = 0;
}

static dnnl_status_t append_post_ops(dnnl_post_ops_t post_ops, const cpu_op_spec *spec)
{
    dnnl_status_t status = dnnl_success;
    if (spec->kind != CPU_CONV && spec->kind != CPU_LINEAR) return status;
#if DNNL_VERSION_MAJOR >= 3
    if (spec->add) status = dnnl_post_ops_append_sum(post_ops, 1.0f, 0, dnnl_data_type_undef);
    if (status == dnnl_success && spec->activation)
        status = dnnl_post_ops_append_eltwise(post_ops, dnnl_eltwise_relu, spec->slope, 0.0f);
#else
    if (spec->add) status = dnnl_post_ops_append_sum(post_ops, 1.0f);
    if (status == dnnl_success && spec->activation)
        status = dnnl_post_ops_append_eltwise(post_ops, 1.0f, dnnl_eltwise_relu, spec->slope, 0.0f);
#endif
    return status;
}

/* Zero dilation and both paddings of a convolution; the end padding makes the output size exact. */
typedef struct conv_edges {
    dnnl_dims_t strides, dilates, begin, end;
} conv_edges;

static conv_edges edges_of(const cpu_op_spec *spec)
{
    conv_edges e;
    memset(&e, 0, sizeof e);
    for (int i = 0; i < 2; ++i) {
        const int64_t need = (spec->out[i] - 1) * spec->stride[i] + spec->kernel[i] - spec->in[i] - spec->padding[i];
        e.strides[i] = spec->stride[i];
        e.begin[i] = spec->padding[i];
        e.end[i] = need > 0 ? need : 0;
    }
    return e;
}

#if DNNL_VERSION_MAJOR >= 3
static dnnl_status_t describe_conv(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const cpu_op_spec *spec,
                                   const op_descriptors *d, dnnl_primitive_attr_t attributes)
{
    const conv_edges e = edges_of(spec);
    descriptor_ref bias = spec->bias ? d->bias : NULL;
    if (spec->kind == CPU_CONV)
        return dnnl_convolution_forward_primitive_desc_create(
            out, dnnl->engine, dnnl_forward_inference, dnnl_convolution_direct, d->source, d->weights, bias, d->target,
            e.strides, e.dilates, e.begin, e.end, attributes);
    dnnl_primitive_desc_t hint = NULL;
    dnnl_memory_desc_t hint_weights;
    const dnnl_dim_t shape[4] = {spec->out_channels, spec->in_channels, spec->kernel[0], spec->kernel[1]};
    dnnl_status_t status = make_descriptor(&hint_weights, 4, shape, spec->bf16 ? dnnl_bf16 : dnnl_f32, NULL);
    if (status != dnnl_success) return status;
    const int data = spec->kind == CPU_CONV_DATA;
    status = dnnl_convolution_forward_primitive_desc_create(
        &hint, dnnl->engine, dnnl_forward_training, dnnl_convolution_direct, data ? d->target : d->source, hint_weights,
        NULL, data ? d->source : d->target, e.strides, e.dilates, e.begin, e.end, NULL);
    dnnl_memory_desc_destroy(hint_weights);
    if (status != dnnl_success) return status;
    status = data ? dnnl_convolution_backward_data_primitive_desc_create(
                        out, dnnl->engine, dnnl_convolution_direct, d->target, d->weights, d->source, e.strides,
                        e.dilates, e.begin, e.end, hint, attributes)
                  : dnnl_convolution_backward_weights_primitive_desc_create(
                        out, dnnl->engine, dnnl_convolution_direct, d->source, d->weights, bias, d->target, e.strides,
                        e.dilates, e.begin, e.end, hint, attributes);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

static dnnl_status_t describe_linear(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const cpu_op_spec *spec,
                                     const op_descriptors *d, dnnl_primitive_attr_t attributes)
{
    descriptor_ref bias = spec->bias ? d->bias : NULL;
    if (spec->kind == CPU_LINEAR)
        return dnnl_inner_product_forward_primitive_desc_create(out, dnnl->engine, dnnl_forward_inference, d->source,
                                                                d->weights, bias, d->target, attributes);
    dnnl_primitive_desc_t hint = NULL;
    dnnl_memory_desc_t hint_weights;
    const dnnl_dim_t shape[2] = {spec->out_channels, spec->in_channels};
    dnnl_status_t status = make_descriptor(&hint_weights, 2, shape, spec->bf16 ? dnnl_bf16 : dnnl_f32, NULL);
    if (status != dnnl_success) return status;
    status = dnnl_inner_product_forward_primitive_desc_create(&hint, dnnl->engine, dnnl_forward_training, d->source,
                                                              hint_weights, NULL, d->target, NULL);
    dnnl_memory_desc_destroy(hint_weights);
    if (status != dnnl_success) return status;
    status = dnnl_inner_product_backward_weights_primitive_desc_create(out, dnnl->engine, d->source, d->weights, bias,
                                                                       d->target, hint, attributes);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

static dnnl_status_t describe_matmul(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const op_descriptors *d,
                                     dnnl_primitive_attr_t attributes)
{
    return dnnl_matmul_primitive_desc_create(out, dnnl->engine, d->source, d->weights, NULL, d->target, attributes);
}
#else
static dnnl_status_t describe_conv(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const cpu_op_spec *spec,
                                   const op_descriptors *d, dnnl_primitive_attr_t attributes)
{
    const conv_edges e = edges_of(spec);
    const dnnl_memory_desc_t *bias = spec->bias ? &d->bias : NULL;
    dnnl_convolution_desc_t operation;
    dnnl_status_t status;
    if (spec->kind == CPU_CONV) {
        status = dnnl_convolution_forward_desc_init(&operation, dnnl_forward_inference, dnnl_convolution_direct,
                                                    &d->source, &d->weights, bias, &d->target, e.strides, e.begin,
                                                    e.end);
        return status != dnnl_success ? status
                                      : dnnl_primitive_desc_create(out, &operation, attributes, dnnl->engine, NULL);
    }
    dnnl_primitive_desc_t hint = NULL;
    dnnl_memory_desc_t hint_weights;
    const dnnl_dim_t shape[4] = {spec->out_channels, spec->in_channels, spec->kernel[0], spec->kernel[1]};
    const int data = spec->kind == CPU_CONV_DATA;
    status = make_descriptor(&hint_weights, 4, shape, spec->bf16 ? dnnl_bf16 : dnnl_f32, NULL);
    if (status != dnnl_success) return status;
    status = dnnl_convolution_forward_desc_init(&operation, dnnl_forward_training, dnnl_convolution_direct,
                                                data ? &d->target : &d->source, &hint_weights, NULL,
                                                data ? &d->source : &d->target, e.strides, e.begin, e.end);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(&hint, &operation, NULL, dnnl->engine, NULL);
    if (status != dnnl_success) return status;
    status = data ? dnnl_convolution_backward_data_desc_init(&operation, dnnl_convolution_direct, &d->target,
                                                             &d->weights, &d->source, e.strides, e.begin, e.end)
                  : dnnl_convolution_backward_weights_desc_init(&operation, dnnl_convolution_direct, &d->source,
                                                                &d->weights, bias, &d->target, e.strides, e.begin,
                                                                e.end);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(out, &operation, attributes, dnnl->engine, hint);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

static dnnl_status_t describe_linear(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const cpu_op_spec *spec,
                                     const op_descriptors *d, dnnl_primitive_attr_t attributes)
{
    const dnnl_memory_desc_t *bias = spec->bias ? &d->bias : NULL;
    dnnl_inner_product_desc_t operation;
    dnnl_status_t status;
    if (spec->kind == CPU_LINEAR) {
        status = dnnl_inner_product_forward_desc_init(&operation, dnnl_forward_inference, &d->source, &d->weights, bias,
                                                      &d->target);
        return status != dnnl_success ? status
                                      : dnnl_primitive_desc_create(out, &operation, attributes, dnnl->engine, NULL);
    }
    dnnl_primitive_desc_t hint = NULL;
    dnnl_memory_desc_t hint_weights;
    const dnnl_dim_t shape[2] = {spec->out_channels, spec->in_channels};
    status = make_descriptor(&hint_weights, 2, shape, spec->bf16 ? dnnl_bf16 : dnnl_f32, NULL);
    if (status != dnnl_success) return status;
    status = dnnl_inner_product_forward_desc_init(&operation, dnnl_forward_training, &d->source, &hint_weights, NULL,
                                                  &d->target);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(&hint, &operation, NULL, dnnl->engine, NULL);
    if (status != dnnl_success) return status;
    status = dnnl_inner_product_backward_weights_desc_init(&operation, &d->source, &d->weights, bias, &d->target);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(out, &operation, attributes, dnnl->engine, hint);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

static dnnl_status_t describe_matmul(dnnl_primitive_desc_t *out, const cpu_dnnl *dnnl, const op_descriptors *d,
                                     dnnl_primitive_attr_t attributes)
{
    dnnl_matmul_desc_t operation;
    const dnnl_status_t status = dnnl_matmul_desc_init(&operation, &d->source, &d->weights, NULL, &d->target);
    return status != dnnl_success ? status
                                  : dnnl_primitive_desc_create(out, &operation, attributes, dnnl->engine, NULL);
}
#endif

/* ---- descriptors of one operation */

static int is_conv(cpu_op_kind kind)
{
    return kind == CPU_CONV || kind == CPU_CONV_DATA || kind == CPU_CONV_WEIGHTS;
}

static int gives_weights(cpu_op_kind kind)
{
    return kind == CPU_CONV_WEIGHTS || kind == CPU_LINEAR_WEIGHTS;
}

static dnnl_status_t image_descriptor(dnnl_memory_desc_t *descriptor, int64_t rows, int64_t channels,
                                      const int64_t size[2], uint32_t bf16)
{
    const dnnl_dim_t shape[4] = {rows, channels, size[0], size[1]};
    const dnnl_dims_t strides = {size[0] * size[1] * channels, 1, size[1] * channels, channels};
    return make_descriptor(descriptor, 4, shape, bf16 ? dnnl_bf16 : dnnl_f32, strides);
}

static dnnl_status_t describe_data(const cpu_op_spec *spec, op_descriptors *d)
{
    dnnl_status_t status;
    const int64_t in = spec->in_channels, out = spec->out_channels;
    const dnnl_data_type_t type = spec->bf16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_data_type_t target_type = spec->target_bf16 ? dnnl_bf16 : dnnl_f32;
    if (is_conv(spec->kind)) {
        const int data = spec->kind == CPU_CONV_DATA;
        status = image_descriptor(&d->source, spec->rows, data ? out : in, data ? spec->out : spec->in, spec->bf16);
        if (status != dnnl_success) return status;
        d->made = 1;
        const dnnl_dim_t shape[4] = {out, in, spec->kernel[0], spec->kernel[1]};
        status = make_descriptor(&d->weights, 4, shape, gives_weights(spec->kind) ? dnnl_f32 : type, NULL);
        if (status != dnnl_success) return status;
        d->made = 2;
        status = make_descriptor(&d->bias, 1, &shape[0], dnnl_f32, (const dnnl_dims_t){1});
        if (status != dnnl_success) return status;
        d->made = 3;
        status = image_descriptor(&d->target, spec->rows, data ? in : out, data ? spec->in : spec->out,
                                  spec->target_bf16);
        if (status != dnnl_success) return status;
        d->made = 4;
        const dnnl_dims_t plain = {spec->kernel[0] * spec->kernel[1] * in, 1, spec->kernel[1] * in, in};
        status = make_descriptor(&d->plain, 4, shape, dnnl_f32, plain);
    } else {
        const int batch = spec->kind == CPU_MATMUL;
        const dnnl_dim_t source[3] = {spec->batch, spec->rows, in}, target[3] = {spec->batch, spec->rows, out};
        const dnnl_dim_t matrix[3] = {spec->batch, in, out}, weight[2] = {out, in};
        const dnnl_dims_t source_strides = {spec->rows * in, in, 1}, target_strides = {spec->rows * out, out, 1};
        const dnnl_dims_t matrix_strides = {in * out, out, 1};
        const dnnl_dims_t plain = {spec->transposed ? 1 : in, spec->transposed ? out : 1};
        const int axes = batch ? 3 : 2, first = batch ? 0 : 1;
        status = make_descriptor(&d->source, axes, source + first, type, source_strides + first);
        if (status != dnnl_success) return status;
        d->made = 1;
        status = batch ? make_descriptor(&d->weights, 3, matrix, type, matrix_strides)
                       : make_descriptor(&d->weights, 2, weight, gives_weights(spec->kind) ? dnnl_f32 : type, NULL);
        if (status != dnnl_success) return status;
        d->made = 2;
        status = make_descriptor(&d->bias, 1, weight, dnnl_f32, (const dnnl_dims_t){1});
        if (status != dnnl_success) return status;
        d->made = 3;
        status = make_descriptor(&d->target, axes, target + first, target_type, target_strides + first);
        if (status != dnnl_success) return status;
        d->made = 4;
        const dnnl_dims_t batch_plain = {in * out, spec->transposed ? out : 1, spec->transposed ? 1 : in};
        status = make_descriptor(&d->plain, axes, batch ? matrix : weight, dnnl_f32, batch ? batch_plain : plain);
    }
    if (status == dnnl_success) d->made = 5;
    return status;
}

static dnnl_status_t make_attributes(const cpu_op_spec *spec, dnnl_primitive_attr_t *attributes)
{
    dnnl_post_ops_t post_ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attributes);
    if (status != dnnl_success) return status;
    status = dnnl_primitive_attr_set_scratchpad_mode(*attributes, dnnl_scratchpad_mode_user);
    if (status == dnnl_success) status = dnnl_post_ops_create(&post_ops);
    if (status != dnnl_success) return status;
    status = append_post_ops(post_ops, spec);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*attributes, post_ops);
    dnnl_post_ops_destroy(post_ops);
    return status;
}

/* ---- building */

/* The descriptor that oneDNN chose for one slot. */
static descriptor_ref chosen_descriptor(const cpu_op *op, int slot)
{
    static const dnnl_query_t queries[][5] = {
        [CPU_CONV] = {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_weights_md, dnnl_query_dst_md,
                      dnnl_query_scratchpad_md},
        [CPU_CONV_DATA] = {dnnl_query_diff_dst_md, dnnl_query_weights_md, dnnl_query_weights_md,
                           dnnl_query_diff_src_md, dnnl_query_scratchpad_md},
        [CPU_CONV_WEIGHTS] = {dnnl_query_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_weights_md,
                              dnnl_query_diff_dst_md, dnnl_query_scratchpad_md},
    };
    const cpu_op_kind kind = gives_weights(op->spec.kind)       ? CPU_CONV_WEIGHTS
                             : op->spec.kind == CPU_CONV_DATA   ? CPU_CONV_DATA
                                                                : CPU_CONV;
    return dnnl_primitive_desc_query_md(op->description, queries[kind][slot], slot == BIAS ? 1 : 0);
}

static dnnl_status_t make_memory(cpu_op *op, int slot, descriptor_ref descriptor)
{
    for (uint32_t t = 0; t < op->dnnl->threads; ++t) {
        const dnnl_status_t status =
            dnnl_memory_create(&op->memory[t][slot], descriptor, op->dnnl->engine, DNNL_MEMORY_NONE);
        if (status != dnnl_success) return status;
    }
    return dnnl_success;
}

static dnnl_status_t make_reorder(cpu_op *op, const op_descriptors *d)
{
    descriptor_ref packed = chosen_descriptor(op, WEIGHTS), plain = DESCRIPTOR_REF(d->plain);
    descriptor_ref from = gives_weights(op->spec.kind) ? packed : plain;
    descriptor_ref to = gives_weights(op->spec.kind) ? plain : packed;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t status =
        dnnl_reorder_primitive_desc_create(&description, from, op->dnnl->engine, to, op->dnnl->engine, NULL);
    if (status != dnnl_success) return status;
    status = dnnl_primitive_create(&op->reorder, description);
    dnnl_primitive_desc_destroy(description);
    if (status == dnnl_success) status = make_memory(op, PACK_FROM, from);
    if (status == dnnl_success) status = make_memory(op, PACK_TO, to);
    return status;
}

static dnnl_status_t build(cpu_op *op, op_descriptors *d, dnnl_primitive_attr_t *attributes)
{
    const cpu_op_spec *spec = &op->spec;
    dnnl_status_t status = describe_data(spec, d);
    if (status == dnnl_success) status = make_attributes(spec, attributes);
    if (status != dnnl_success) return status;
    status = is_conv(spec->kind)        ? describe_conv(&op->description, op->dnnl, spec, d, *attributes)
             : spec->kind == CPU_MATMUL ? describe_matmul(&op->description, op->dnnl, d, *attributes)
                                        : describe_linear(&op->description, op->dnnl, spec, d, *attributes);
    if (status == dnnl_success) status = dnnl_primitive_create(&op->primitive, op->description);
    if (status != dnnl_success) return status;
    descriptor_ref scratch = chosen_descriptor(op, SCRATCH);
    op->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    op->weight_bytes = dnnl_memory_desc_get_size(chosen_descriptor(op, WEIGHTS));
    for (int slot = SOURCE; slot <= SCRATCH; ++slot) {
        if ((slot == BIAS && !spec->bias) || (slot == SCRATCH && !op->scratch_bytes)) continue;
        status = make_memory(op, slot, chosen_descriptor(op, slot));
        if (status != dnnl_success) return status;
    }
    return make_reorder(op, d);
}

void mmebm__op_build(cpu_op *op)
{
    op_descriptors descriptors;
    dnnl_primitive_attr_t attributes = NULL;
    memset(&descriptors, 0, sizeof descriptors);
    const dnnl_status_t status = build(op, &descriptors, &attributes);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    free_descriptors(&descriptors);
    if (status == dnnl_success) return;
    op->missing = status == dnnl_unimplemented;
    snprintf(op->problem, sizeof op->problem, "oneDNN status %d%s", (int)status,
             op->missing ? " (not offered on this processor)" : "");
}

size_t mmebm__op_bytes(const cpu_dnnl *dnnl)
{
    return sizeof(cpu_op) + dnnl->threads * sizeof(op_memory);
}

cpu_op *mmebm__op_create(cpu_dnnl *dnnl, const cpu_op_spec *spec)
{
    cpu_op *op = dnnl->host->allocate(dnnl->host->owner, mmebm__op_bytes(dnnl), 64);
    if (!op) return NULL;
    op->dnnl = dnnl;
    op->spec = *spec;
    return op;
}

void mmebm__op_destroy(cpu_op *op)
{
    if (!op) return;
    for (uint32_t t = 0; t < op->dnnl->threads; ++t)
        for (int slot = 0; slot < SLOT_COUNT; ++slot)
            if (op->memory[t][slot]) dnnl_memory_destroy(op->memory[t][slot]);
    if (op->reorder) dnnl_primitive_destroy(op->reorder);
    if (op->primitive) dnnl_primitive_destroy(op->primitive);
    if (op->description) dnnl_primitive_desc_destroy(op->description);
    op->dnnl->host->release(op->dnnl->host->owner, op, mmebm__op_bytes(op->dnnl));
}

const char *mmebm__op_problem(const cpu_op *op)
{
    return op->problem;
}

int mmebm__op_missing(const cpu_op *op)
{
    return op->missing;
}

const char *mmebm__op_implementation(const cpu_op *op)
{
    const char *name = "";
    dnnl_primitive_desc_query(op->description, dnnl_query_impl_info_str, 0, &name);
    return name;
}

size_t mmebm__op_scratch(const cpu_op *op)
{
    return op->scratch_bytes;
}

size_t mmebm__op_weight_bytes(const cpu_op *op)
{
    return op->weight_bytes;
}

/* ---- running */

/* oneDNN takes all handles as writable. */
static int execute(const cpu_op *op, dnnl_primitive_t primitive, uint32_t thread, int count, const int *slots,
                   const int *arguments, void *const *handles)
{
    dnnl_exec_arg_t list[SLOT_COUNT];
    for (int i = 0; i < count; ++i) {
        dnnl_memory_t memory = op->memory[thread][slots[i]];
        const dnnl_status_t status = dnnl_memory_set_data_handle(memory, handles[i]);
        if (status != dnnl_success) return (int)status;
        list[i] = (dnnl_exec_arg_t){arguments[i], memory};
    }
    dnnl_stream_t stream = op->dnnl->streams[thread];
    const dnnl_status_t status = dnnl_primitive_execute(primitive, stream, count, list);
    return (int)(status == dnnl_success ? dnnl_stream_wait(stream) : status);
}

int mmebm__op_run(const cpu_op *op, uint32_t thread, const cpu_op_buffers *b)
{
    static const int arguments[][5] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD},
        {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_BIAS, DNNL_ARG_SCRATCHPAD},
    };
    const int *names = arguments[gives_weights(op->spec.kind) ? 2 : op->spec.kind == CPU_CONV_DATA ? 1 : 0];
    union {
        const void *read;
        void *handle;
    } source = {b->source};
    int slots[5] = {SOURCE, WEIGHTS, TARGET}, numbers[5] = {names[0], names[1], names[2]}, count = 3;
    void *handles[5] = {source.handle, b->weights, b->target};
    if (op->spec.bias) {
        slots[count] = BIAS;
        numbers[count] = names[3];
        handles[count++] = b->bias;
    }
    if (op->scratch_bytes) {
        slots[count] = SCRATCH;
        numbers[count] = names[4];
        handles[count++] = b->scratch;
    }
    return execute(op, op->primitive, thread, count, slots, numbers, handles);
}

int mmebm__op_pack(const cpu_op *op, uint32_t thread, const void *from, void *to)
{
    static const int slots[2] = {PACK_FROM, PACK_TO}, names[2] = {DNNL_ARG_FROM, DNNL_ARG_TO};
    union {
        const void *read;
        void *handle;
    } source = {from};
    void *const handles[2] = {source.handle, to};
    return execute(op, op->reorder, thread, 2, slots, names, handles);
}

/* ---- the engine */

static size_t dnnl_size(uint32_t threads)
{
    return sizeof(cpu_dnnl) + threads * sizeof(dnnl_stream_t);
}

mmebm_status mmebm__dnnl_open(const mmebm_host *host, uint32_t threads, cpu_dnnl **out)
{
    *out = NULL;
    cpu_dnnl *dnnl = host->allocate(host->owner, dnnl_size(threads), 64);
    if (!dnnl) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for the oneDNN engine");
    dnnl->host = host;
    dnnl->threads = threads;
    dnnl_status_t status = dnnl_engine_create(&dnnl->engine, dnnl_cpu, 0);
    for (uint32_t t = 0; status == dnnl_success && t < threads; ++t)
        status = dnnl_stream_create(&dnnl->streams[t], dnnl->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        mmebm__dnnl_close(dnnl);
        return host->fail(host->owner, MMEBM_E_DEVICE, "cpu: oneDNN has no CPU engine here (oneDNN status %d)",
                          (int)status);
    }
    *out = dnnl;
    return MMEBM_OK;
}

void mmebm__dnnl_close(cpu_dnnl *dnnl)
{
    if (!dnnl) return;
    for (uint32_t t = 0; t < dnnl->threads; ++t)
        if (dnnl->streams[t]) dnnl_stream_destroy(dnnl->streams[t]);
    if (dnnl->engine) dnnl_engine_destroy(dnnl->engine);
    dnnl->host->release(dnnl->host->owner, dnnl, dnnl_size(dnnl->threads));
}

void mmebm__dnnl_start_worker(void)
{
    if (omp_set_num_threads) omp_set_num_threads(1);
}

void mmebm__dnnl_version(char text[32])
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, 32, "%d.%d.%d", v->major, v->minor, v->patch);
}

static int has_isa(dnnl_cpu_isa_t isa)
{
    return ((int)dnnl_get_effective_cpu_isa() & (int)isa) == (int)isa;
}

const char *mmebm__dnnl_processor(void)
{
    return has_isa(dnnl_cpu_isa_avx512_core_amx)    ? "avx512_core_amx"
           : has_isa(dnnl_cpu_isa_avx512_core_bf16) ? "avx512_core_bf16"
           : has_isa(dnnl_cpu_isa_avx512_core)      ? "avx512_core"
           : has_isa(dnnl_cpu_isa_avx2)             ? "avx2"
                                                    : "baseline";
}

uint32_t mmebm__dnnl_has_amx_bf16(void)
{
    return (uint32_t)has_isa(dnnl_cpu_isa_avx512_core_amx);
}

int64_t mmebm__dnnl_rows_at_once(void)
{
    enum { AVX2_ROWS = 6 };
    return has_isa(dnnl_cpu_isa_avx512_core) ? 1 : AVX2_ROWS;
}
