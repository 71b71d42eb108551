/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph compiled for chunks of a fixed number of rows. A chunk goes through the whole graph, forward and backward,
 * in one thread and that thread's workspace; chunks go to threads as these become free. The last chunk is filled up
 * with zero rows, so a row's bits never depend on how many rows there are.
 *
 *   cpu_resample.c, cpu_merge.c   the graph rewritten for bf16
 *   cpu_nodes.c     layers -> nodes: fusions, element types, conversions, what needs which gradient
 *   cpu_memory.c    where each value and gradient lies in the workspace, by the time it is used
 *   cpu_plan.c      the table's plan_create, _destroy, _size, _load_weights
 *   cpu_run.c       plan_run
 */
#ifndef MMEBM_CPU_PLAN_H
#define MMEBM_CPU_PLAN_H

#include "cpu_device.h"
#include "cpu_matrix.h"
#include "cpu_simd.h"

enum { CPU_NODE_CONVERT = MMEBM_LAYER_KIND_COUNT /* between f32 and bf16 */ };
enum { CPU_MAX_GROUPS = 8 /* partial sums of weight gradients: enough work for eight threads */ };

/* One input of a node. add: its gradient already has a part when this node's is computed. */
typedef struct cpu_edge {
    int32_t node;
    uint32_t add;
} cpu_edge;

typedef struct cpu_node {
    uint32_t kind; /* mmebm_layer_kind or CPU_NODE_CONVERT */
    uint32_t bf16; /* element type of value and gradient */
    const mmebm_layer *layer;
    int64_t count; /* elements of a row */
    uint32_t first_edge, edge_count;
    uint32_t activation; /* matrix products: fused into them; 0 = none */
    float slope;
    int32_t matrix, norm;   /* number in the plan's arrays, -1 = none */
    uint32_t has_gradient;  /* some run may need it */
    uint32_t no_gradient_source; /* nothing ever writes the gradient: it is zero */
    uint32_t by_weights;    /* depends on weights */
    uint64_t by_inputs;     /* and on these inputs */
    size_t value, gradient; /* offsets in a workspace */
    size_t sums;            /* offset of its weights' gradient in a group's sums, in floats */
} cpu_node;

/* Batch norm as scale and shift: [scale, shift, mean, inverse], channels each. */
typedef struct cpu_norm {
    int64_t channels;
    float *data;
} cpu_norm;

typedef struct cpu_plan_memory {
    struct cpu_plan_memory *next;
    size_t size;
} cpu_plan_memory;

struct mmebm_plan {
    mmebm_device *device;
    mmebm_plan_spec spec;
    int64_t chunk; /* rows */
    uint32_t bf16;
    const mmebm_graph *original; /* what cpu_merge.h read, where it wrote spec.graph; else NULL */
    struct cpu_merge *merges;
    int32_t *merge_parts;
    uint32_t merge_count, merge_part_count;
    const uint8_t *resample; /* by layer: CPU_POOLED, CPU_DOUBLED or 0; NULL: none (cpu_resample.h) */
    uint8_t *keeps_f32; /* by layer: its product is f32 in a bf16 plan, since oneDNN offers no other; plan_create's */
    cpu_node *nodes;
    cpu_edge *edges;
    uint32_t node_count, edge_count, matrix_count, norm_count;
    int32_t *node_of_layer;
    uint32_t *add_seed; /* of each output: its node's gradient already has a part */
    cpu_matrix *matrices;
    cpu_norm *norms;
    cpu_scratch_size scratch;
    size_t workspace, convert_bytes, value_bytes; /* bytes of one thread: all, of one converted gradient, of values */
    char **workspaces;                            /* one a thread */
    size_t sums_floats;
    uint32_t group_count;
    float *sums[CPU_MAX_GROUPS];
    cpu_plan_memory *memory; /* all that the plan took */
    size_t size;
};

/* Zero-filled memory of the plan, 64-byte aligned; NULL when it cannot be had. */
void *mmebm__cpu_plan_take(mmebm_plan *plan, size_t size);

/* Fails with MMEBM_E_MEMORY: there is none for `what` of a plan. */
mmebm_status mmebm__cpu_no_memory(const mmebm_plan *plan, const char *what);
/* How many edges and outputs read each layer, in the plan's memory; NULL when it cannot be had. */
uint32_t *mmebm__cpu_count_readers(mmebm_plan *plan);

/* Both return MMEBM_E_MEMORY's status through fail. */
mmebm_status mmebm__cpu_make_nodes(mmebm_plan *plan);
mmebm_status mmebm__cpu_place_values(mmebm_plan *plan);

static inline const mmebm_layer *mmebm__cpu_input_layer(const mmebm_plan *plan, const cpu_node *node, uint32_t k)
{
    return mmebm__layer_input(plan->spec.graph, node->layer, k);
}

/* What a convolution of spec.graph has taken in. */
static inline uint32_t mmebm__cpu_resample_of(const mmebm_plan *plan, const mmebm_layer *layer)
{
    return plan->resample ? plan->resample[layer - plan->spec.graph->layers] : 0;
}

static inline size_t mmebm__cpu_round_up(size_t size)
{
    return (size + 63) / 64 * 64;
}

static inline int mmebm__cpu_is_matrix(uint32_t kind)
{
    return kind == MMEBM_LAYER_CONV2D || kind == MMEBM_LAYER_CONV_TRANSPOSE2D || kind == MMEBM_LAYER_LINEAR;
}

mmebm_status mmebm__cpu_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan);
void mmebm__cpu_plan_destroy(mmebm_plan *plan);
size_t mmebm__cpu_plan_size(const mmebm_plan *plan);
mmebm_status mmebm__cpu_plan_load_weights(mmebm_plan *plan, const float *weights);
mmebm_status mmebm__cpu_plan_run(mmebm_plan *plan, const mmebm_plan_run *run);

#endif /* MMEBM_CPU_PLAN_H */
