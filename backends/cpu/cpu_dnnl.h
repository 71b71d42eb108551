/* SPDX-License-Identifier: Apache-2.0
 *
 * All that the backend wants of oneDNN: convolutions, inner products and batched matrix products as single-threaded
 * operations that several threads may run at once. cpu_dnnl.c is the only file that knows oneDNN's interface.
 *
 * Life of an operation: the calling thread takes its memory (cpu_op_create), a worker builds it (cpu_op_build, so
 * that oneDNN sees one OpenMP thread), workers run it, the calling thread destroys it.
 */
#ifndef MMEBM_CPU_DNNL_H
#define MMEBM_CPU_DNNL_H

#include "backend_api.h"

typedef struct cpu_dnnl cpu_dnnl; /* the engine, one stream a thread */
typedef struct cpu_op cpu_op;

typedef enum cpu_op_kind {
    CPU_CONV = 0,             /* source x, target y */
    CPU_CONV_DATA = 1,        /* gradient by x of that convolution: source dy, target dx */
    CPU_CONV_WEIGHTS = 2,     /* gradient by its weights and bias, written; source x and target dy are read */
    CPU_LINEAR = 3,           /* [rows, in_channels] -> [rows, out_channels] */
    CPU_LINEAR_WEIGHTS = 4,
    CPU_MATMUL = 5            /* batch of [rows, in_channels] x [in_channels, out_channels], row-major f32 */
} cpu_op_kind;

/* What goes with a convolution, by way of cpu_tiles.h alone; `in` and `out` are what is left then. */
enum { CPU_POOLED = 1 /* the mean of 2 x 2 results */, CPU_DOUBLED = 2 /* its source is doubled first */ };

/* Geometry is always that of the forward operation. Images are [rows, height, width, channels]. */
typedef struct cpu_op_spec {
    cpu_op_kind kind;
    uint32_t bf16;         /* sources and packed weights */
    uint32_t target_bf16;
    uint32_t bias;
    uint32_t add;          /* CPU_CONV, CPU_LINEAR: target += result */
    uint32_t activation;   /* the same: 0, MMEBM_RELU or MMEBM_LEAKY_RELU on the result */
    float slope;
    uint32_t resample;     /* CPU_CONV: CPU_POOLED, CPU_DOUBLED or 0 */
    uint32_t transposed;   /* linear, matmul: plain weights are [in, out] instead of [out, in] */
    int64_t batch;         /* matmul */
    int64_t rows;
    int64_t in[2], out[2]; /* height, width */
    int64_t in_channels, out_channels;
    int64_t kernel[2], stride[2], padding[2];
} cpu_op_spec;

/* What an operation reads and writes. Bias f32. */
typedef struct cpu_op_buffers {
    const void *source;
    void *weights, *bias, *target;
    void *scratch; /* mmebm__op_scratch bytes, 64-byte aligned, of the running thread */
} cpu_op_buffers;

mmebm_status mmebm__dnnl_open(const mmebm_host *host, uint32_t threads, cpu_dnnl **dnnl);
void mmebm__dnnl_close(cpu_dnnl *dnnl);         /* NULL is fine */
void mmebm__dnnl_start_worker(void);            /* in each worker before its first operation */
void mmebm__dnnl_version(char text[32]);        /* "2.6.3" */
const char *mmebm__dnnl_processor(void);        /* "avx512_core_amx" */
uint32_t mmebm__dnnl_has_amx_bf16(void);
/* Rows that a matrix product takes at once. Rows left over at the end go through other kernels, whose sums may round
 * otherwise: where that matters, products have a multiple of so many rows. 1 = it does not matter. */
int64_t mmebm__dnnl_rows_at_once(void);

/* NULL when memory cannot be had. */
cpu_op *mmebm__op_create(cpu_dnnl *dnnl, const cpu_op_spec *spec);
void mmebm__op_build(cpu_op *op);               /* in a worker */
const char *mmebm__op_problem(const cpu_op *op); /* why it could not be built; "" if it was */
int mmebm__op_missing(const cpu_op *op);         /* 1: because oneDNN does not offer it on this processor */
size_t mmebm__op_bytes(const cpu_dnnl *dnnl);    /* that each operation takes from the host */
const char *mmebm__op_implementation(const cpu_op *op);
void mmebm__op_destroy(cpu_op *op);             /* NULL is fine */

size_t mmebm__op_scratch(const cpu_op *op);
size_t mmebm__op_weight_bytes(const cpu_op *op); /* packed */

/* Plain f32 weights ([out, kh, kw, in] or [out, in]) to packed ones; for _WEIGHTS kinds packed gradient to plain. 0 or
 * oneDNN's status. */
int mmebm__op_pack(const cpu_op *op, uint32_t thread, const void *from, void *to);
int mmebm__op_run(const cpu_op *op, uint32_t thread, const cpu_op_buffers *buffers);

#endif /* MMEBM_CPU_DNNL_H */
