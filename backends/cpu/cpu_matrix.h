/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer with a weight matrix (conv2d, conv_transpose2d, linear): which operations compute its result, the gradient
 * of its input and that of its weights, and its packed weights. A transposed convolution is the input gradient of a
 * convolution with the roles of input and output swapped.
 */
#ifndef MMEBM_CPU_MATRIX_H
#define MMEBM_CPU_MATRIX_H

#include "cpu_dnnl.h"

/* How a product is computed: by oneDNN as it stands, around a smaller operation of oneDNN, or without it. */
enum {
    CPU_DIRECT = 0,
    CPU_WINOGRAD = 1, /* cpu_winograd.h */
    CPU_NARROW = 2,   /* cpu_narrow.h */
    CPU_SINGLE = 3,   /* a linear layer to one number: dot products, for which oneDNN takes 100 us */
    CPU_TILES = 4     /* cpu_tiles.h */
};

/* One multiplication by the weights: forward, or towards the input. */
typedef struct cpu_product {
    cpu_op_spec spec;
    cpu_op *op;
    uint32_t method;
    uint32_t flipped;  /* packs the weights turned round, [in, kh', kw', out]: an input gradient as a forward product */
    size_t weight_bytes;
    void *weights;     /* packed; in the plan's memory */
} cpu_product;

typedef struct cpu_matrix {
    uint32_t bf16;                 /* of the weights and of what they multiply */
    uint32_t transposed_conv;
    cpu_product forward, backward; /* weight_bytes 0: not wanted */
    cpu_op *weight_gradient;
    size_t weight_offset, weight_count, bias_offset, bias_count; /* in the graph's weight vector; count 0: no bias */
    float *bias;                   /* plan's copy */
} cpu_matrix;

/* What a plan wants of a matrix. */
typedef struct cpu_matrix_wish {
    int64_t rows;                /* of a chunk */
    uint32_t bf16, target_bf16;
    uint32_t activation;         /* applied to the result, after the bias */
    float slope;
    uint32_t input_gradient, add_input_gradient, weight_gradient;
    uint32_t resample;           /* as in cpu_op_spec */
} cpu_matrix_wish;

/* Scratch that runs and loads of this matrix need in each thread. */
typedef struct cpu_scratch_size {
    size_t op, other;
} cpu_scratch_size;

typedef struct cpu_scratch {
    void *op, *other;
} cpu_scratch;

/* Takes the operations' memory (0: could not be had); they are built by mmebm__op_build in workers. */
int mmebm__cpu_matrix_create(cpu_matrix *matrix, cpu_dnnl *dnnl, const mmebm_graph *graph, const mmebm_layer *layer,
                             const cpu_matrix_wish *wish);
void mmebm__cpu_matrix_destroy(cpu_matrix *matrix);
/* The operations to build: at most 3. */
uint32_t mmebm__cpu_matrix_ops(const cpu_matrix *matrix, cpu_op *ops[3]);
/* After building. Grows *size. */
void mmebm__cpu_matrix_sizes(cpu_matrix *matrix, cpu_scratch_size *size);
/* Floats of the packed weight gradient, without the bias's. */
size_t mmebm__cpu_matrix_gradient_floats(const cpu_matrix *matrix);

/* All return 0 or oneDNN's status. plain: the graph's weight vector. */
int mmebm__cpu_matrix_load(const cpu_matrix *matrix, uint32_t thread, const float *plain, const cpu_scratch *scratch);
int mmebm__cpu_matrix_forward(const cpu_matrix *matrix, uint32_t thread, const void *x, void *y,
                              const cpu_scratch *scratch);
int mmebm__cpu_matrix_backward(const cpu_matrix *matrix, uint32_t thread, const void *by_y, void *by_x,
                               const cpu_scratch *scratch);
/* by_weights (packed), by_bias: written. */
int mmebm__cpu_matrix_weights(const cpu_matrix *matrix, uint32_t thread, const void *x, const void *by_y,
                              float *by_weights, float *by_bias, const cpu_scratch *scratch);
/* plain[...] += packed gradient, at the matrix's place in the graph's vector. */
int mmebm__cpu_matrix_add_gradient(const cpu_matrix *matrix, uint32_t thread, const float *packed, float *plain,
                                   const cpu_scratch *scratch);

#endif /* MMEBM_CPU_MATRIX_H */
