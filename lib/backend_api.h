/* SPDX-License-Identifier: Apache-2.0
 *
 * The boundary between the algorithms (lib/, written once) and a backend (backends/<name>/). A backend offers one
 * table: device memory, plans (a graph compiled for a largest batch, precision and set of gradients) and a short
 * list of vector operations. It includes this header, graph.h and philox.h and links nothing of libmmebm.
 *
 * Rules
 * - `float *` arguments are device addresses from buffer_create (plus offsets); the core never reads through them.
 *   Arrays of pointers, structs and sizes are host memory and are read before the call returns.
 * - Calls are ordered on one queue per device. They may return before their work is done; download, receive and
 *   synchronize wait. upload has taken the source's bytes when it returns.
 * - Arguments were checked by the core: rows >= 1, rows <= capacity, pointers valid, no overlap unless said.
 * - Nothing is allocated by plan_run, by any vector operation or between sequence_create and sequence_destroy.
 * - Values that change between runs of one chain or training step (seeds, chain numbers, rates, step sizes) are read
 *   from device memory, so that a recorded sequence can be replayed.
 * - Bits: for a row, results do not depend on the other rows, on their number, on the thread count. Sums over rows
 *   (weight gradients, means) have an order fixed by the row numbers alone.
 */
#ifndef MMEBM_BACKEND_API_H
#define MMEBM_BACKEND_API_H

#include "graph.h"
#include "philox.h"

#define MMEBM_BACKEND_ABI 3u

/* Reference backend only, for tests: every float pointer of plan_load_weights and plan_run is a double pointer. */
enum { MMEBM_PRECISION_F64 = 64 };

/* What the core offers to a backend. fail formats the context's error sentence and returns its status. */
typedef struct mmebm_host {
    uint32_t struct_size;
    uint32_t reserved;
    void *owner;
    void *(*allocate)(void *owner, size_t size, size_t alignment); /* zero-filled; NULL on failure, no error set */
    void (*release)(void *owner, void *memory, size_t size);
    mmebm_status (*fail)(void *owner, mmebm_status status, const char *format, ...);
    void (*log)(void *owner, int32_t level, const char *format, ...);
    void (*count_device)(void *owner, int64_t bytes); /* of a device's own memory, taken or (negative) given back */
} mmebm_host;

typedef struct mmebm_device mmebm_device; /* each backend's own */
typedef struct mmebm_plan mmebm_plan;
typedef struct mmebm_sequence mmebm_sequence;
typedef struct mmebm_mailbox mmebm_mailbox;

/* What a context wants of a device. */
typedef struct mmebm_device_spec {
    uint32_t struct_size;
    uint32_t n_threads; /* of the host; 0 = one per usable core */
    int32_t ordinal;    /* MMEBM_BACKEND_NUMBERED: which device; -1 = none named */
    uint32_t reserved;
    void *stream; /* MMEBM_BACKEND_STREAM: the caller's queue, on which all work goes; NULL = one of the device's own */
} mmebm_device_spec;

/* Capabilities of a backend. */
enum {
    MMEBM_BACKEND_NUMBERED = 1,     /* there may be several devices, which have numbers from 0 on */
    MMEBM_BACKEND_STREAM = 2,       /* can work on a queue of the caller's */
    MMEBM_BACKEND_DEVICE_VIEWS = 4 /* callers can hold device memory, which copy reads and writes */
};

/* ---- plans */

typedef struct mmebm_plan_spec {
    const mmebm_graph *graph; /* lives as long as the plan */
    uint32_t precision;       /* MMEBM_PRECISION_F32, _BF16, _TF32; F64 on reference */
    uint32_t weight_gradient; /* 1 = runs may ask for it */
    uint64_t input_gradients; /* bit i = runs may ask for the gradient by input i */
    int64_t capacity;         /* most rows of a run */
} mmebm_plan_spec;

/* Row r of an input is data + (r % period) * count: a batch of targets serves several chains. */
typedef struct mmebm_plan_input {
    const float *data;
    int64_t period;
} mmebm_plan_input;

/* Gradient of the loss by output o of row r, element e: scale * (data ? data[r * count + e] : 1). scale 0: none. */
typedef struct mmebm_plan_seed {
    const float *data;
    float scale;
} mmebm_plan_seed;

typedef struct mmebm_plan_run {
    int64_t rows;
    const mmebm_plan_input *inputs; /* graph->input_count entries */
    float *const *outputs;          /* graph->output_count entries, NULL entries are not wanted; NULL = none */
    const mmebm_plan_seed *seeds;   /* graph->output_count entries; NULL = forward only */
    float *const *input_gradients;  /* graph->input_count entries, written with the rows' gradients; NULL as above */
    float *weight_gradient;         /* graph->weight_count floats, added to; NULL = not wanted. The slots of running
                                       statistics receive sums over rows of the row's channel mean of the layer's input
                                       and of the channel mean of (input - running mean)^2 */
} mmebm_plan_run;

/* ---- vector operations. Row r of a state of `rows` rows and `size` elements is state + r * size. */

/* Row r draws as chain key[1] + r % period of stream `stream + r / period`, at step `step`. */
typedef struct mmebm_noise {
    const uint64_t *key; /* device: seed, first chain */
    int64_t period;
    uint32_t stream;
    uint32_t step;
} mmebm_noise;

enum { MMEBM_MAX_LANGEVIN_STEPS = MMEBM_MAX_MODALITIES + 1 /* of a call: all inputs of a chain */ };

/* b(g) = l^2/2 factor g, each element within +-clamp, then each row's norm within norm_clip. */
typedef struct mmebm_drift {
    float factor;    /* 1, or 1 / experts for LISTING1's mean (ruling B4) */
    float clamp;     /* 0 = none */
    float norm_clip; /* 0 = none */
} mmebm_drift;

/* state <- clamp(state - b(gradient) + n xi)   (Eqns 3, 8)
 * The steps of one call have different states and the same rule, drift .. state_max. */
typedef struct mmebm_langevin_step {
    int64_t rows, size;
    float *state;
    const float *gradient;
    const float *scales;   /* device: l, n */
    mmebm_drift drift;
    float state_min, state_max; /* equal = none */
    mmebm_noise noise;
} mmebm_langevin_step;

/* Metropolis-adjusted Langevin for the target exp(-f E), f = drift.factor. propose: y <- z - b(g) + l xi.
 * accept: log a = f (E - E_y) + |xi|^2/2 - |z - y + b(g_y)|^2 / (2 l^2), xi recovered from y; where
 * log(uniform) < log a and E_y, g_y are finite: z, E, g <- y, E_y, g_y and accepted[row] += 1. With bounds on b it is
 * the truncated algorithm of Roberts and Tweedie (1996), section 1.4.2: the same target, whatever b is. */
typedef struct mmebm_mala_step {
    int64_t rows, size;
    float *z, *y;
    float *energy, *gradient; /* E [rows], g [rows, size] at z */
    const float *energy_y, *gradient_y;
    const float *scales; /* device: l, n (= l) */
    mmebm_drift drift;
    float *accepted;     /* [rows] */
    mmebm_noise noise;   /* propose: normals; accept: one uniform a row, word 0 of block 0 */
} mmebm_mala_step;

/* The mixture q(z|x) = 1/M sum_j q_j(z|x_j) (Eqn 5, rulings C1-C3). Expert rows repeat with `period`.
 * log_density[r] = logmeanexp_j sum_d log q_j(z_r,d), normalised densities. Gradients are added to:
 * mean_gradient[j][r % period] += gradient_scale d log_density[r] / d mean_j, and the same by raw. NULL = none. */
typedef struct mmebm_mixture {
    int64_t rows, period, size;
    const float *z;
    const float *const *mean; /* host array of `experts` device pointers, [period, size] each */
    const float *const *raw;
    float *const *mean_gradient;
    float *const *raw_gradient;
    float *log_density;
    float gradient_scale;
    float floor;
    uint32_t experts, family, scale_kind;
} mmebm_mixture;

/* Draws z from experts: row r, tuple b = r % noise.period. choose 0: expert r / period; 1: an expert drawn uniformly
 * (mmebm__choice of block 0, word 0 of stream MMEBM_STREAM_EXPERT, chain of the tuple, step noise.step). start
 * MMEBM_START_SAMPLE: mean + scale xi (Laplace: mmebm__laplace) from stream + expert; _MEAN: the mean; _AVERAGE: of all
 * experts' means, summed in double in their order. */
typedef struct mmebm_expert_draw {
    int64_t rows, size;
    float *z;
    const float *const *mean;
    const float *const *raw;
    float floor;
    uint32_t experts, family, scale_kind, start, choose;
    mmebm_noise noise; /* stream MMEBM_STREAM_START */
} mmebm_expert_draw;

/* Adam (Kingma and Ba) with the gradient scaled by min(1, clip / sqrt(*norm2)). control, device: rate, 1 - beta1^t,
 * 1 - beta2^t. clip 0 = none. */
typedef struct mmebm_adam_step {
    int64_t count;
    float *weights, *moment1, *moment2;
    const float *gradient;
    const float *control;
    const float *norm2;
    float beta1, beta2, epsilon, clip;
} mmebm_adam_step;

/* Spectral norm of one tensor seen as rows x cols. update: one power iteration on u [rows], v [cols], sigma = u' W v,
 * normalised <- W / sigma. gradient: in place, dL/d(W/sigma) -> dL/dW = (G - <G, W/sigma> u v') / sigma. */
typedef struct mmebm_spectral {
    int64_t rows, cols;
    const float *weight;
    float *normalised;
    float *u, *v, *sigma;
    float *gradient;
} mmebm_spectral;

/* l <- clamp(l exp(rate (mean accepted / steps - target)), min, max), n <- l; *mean_acceptance = that mean. */
typedef struct mmebm_mala_adapt {
    int64_t rows;
    const float *accepted;
    float *scales;
    float *mean_acceptance;
    float steps, rate, target, min, max;
} mmebm_mala_adapt;

enum { MMEBM_BRANCHES = 3 };

/* The table. struct_size and abi are read before any other field. All entries are required but those marked
 * optional, which may be NULL. */
typedef struct mmebm_backend_ops {
    uint32_t struct_size;
    uint32_t abi;
    const char *name;
    uint32_t capabilities; /* MMEBM_BACKEND_NUMBERED, ... */
    uint32_t reserved;

    mmebm_status (*device_open)(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **device);
    void (*device_close)(mmebm_device *device);
    const char *(*device_describe)(const mmebm_device *device);
    uint32_t (*fast_precision)(const mmebm_device *device);
    int32_t (*device_number)(const mmebm_device *device); /* 0 without MMEBM_BACKEND_NUMBERED */

    /* Zero-filled, aligned to 64 bytes. */
    mmebm_status (*buffer_create)(mmebm_device *device, size_t bytes, void **buffer);
    void (*buffer_destroy)(mmebm_device *device, void *buffer, size_t bytes);
    mmebm_status (*upload)(mmebm_device *device, void *target, const void *source, size_t bytes);
    mmebm_status (*download)(mmebm_device *device, void *target, const void *source, size_t bytes);
    mmebm_status (*copy)(mmebm_device *device, void *target, const void *source, size_t bytes);
    mmebm_status (*synchronize)(mmebm_device *device);

    mmebm_status (*plan_create)(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan);
    void (*plan_destroy)(mmebm_plan *plan);
    size_t (*plan_size)(const mmebm_plan *plan); /* bytes held */
    /* Takes over new weights (packs, converts); weights are not kept. */
    mmebm_status (*plan_load_weights)(mmebm_plan *plan, const float *weights);
    mmebm_status (*plan_run)(mmebm_plan *plan, const mmebm_plan_run *run);

    mmebm_status (*fill)(mmebm_device *device, int64_t count, float *target, float value);
    /* target <- alpha target + beta source; an operand whose factor is 0 is not read */
    mmebm_status (*combine)(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                            float beta);
    /* target <- target + *t (source_scale source - target); t: device */
    mmebm_status (*lerp)(mmebm_device *device, int64_t count, float *target, const float *source, float source_scale,
                         const float *t);
    /* Standard normals (family MMEBM_GAUSSIAN) or Laplace(0, 1), times scale: target = add * target + scale * xi;
     * with add 0 the target is not read. */
    mmebm_status (*noise)(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family, float scale,
                          float add, const mmebm_noise *noise);
    /* 1 <= count <= MMEBM_MAX_LANGEVIN_STEPS */
    mmebm_status (*langevin)(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count);
    mmebm_status (*mala_propose)(mmebm_device *device, const mmebm_mala_step *step);
    mmebm_status (*mala_accept)(mmebm_device *device, const mmebm_mala_step *step);
    mmebm_status (*mala_adapt)(mmebm_device *device, const mmebm_mala_adapt *adapt);
    mmebm_status (*mixture)(mmebm_device *device, const mmebm_mixture *mixture);
    mmebm_status (*expert_draw)(mmebm_device *device, const mmebm_expert_draw *draw);
    /* scale <- scale of an expert from its raw output (ruling C1) */
    mmebm_status (*expert_scale)(mmebm_device *device, int64_t rows, int64_t size, const float *raw,
                                 uint32_t scale_kind, float floor, float *scale);
    /* out[r] = |a_r - b_r|^2; b NULL = 0 */
    mmebm_status (*row_distance)(mmebm_device *device, int64_t rows, int64_t size, const float *a, const float *b,
                                 float *out);
    /* *out = scale * sum of values, of their squares, or of their square roots (power 1, 2, 0.5 as 1, 2, 0) */
    mmebm_status (*reduce)(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                           float *out);
    mmebm_status (*adam)(mmebm_device *device, const mmebm_adam_step *step);
    mmebm_status (*spectral_update)(mmebm_device *device, const mmebm_spectral *spectral);
    mmebm_status (*spectral_gradient)(mmebm_device *device, const mmebm_spectral *spectral);

    /* Optional, all or none, of a backend whose work goes on after calls have returned. A mailbox holds `bytes` bytes:
     * post queues a copy of device memory to it, receive waits for that, but not for what was queued later, and takes
     * them. The mailbox of a device goes before the device. */
    mmebm_status (*mailbox_create)(mmebm_device *device, size_t bytes, mmebm_mailbox **mailbox);
    mmebm_status (*mailbox_post)(mmebm_mailbox *mailbox, const void *source);
    mmebm_status (*mailbox_receive)(mmebm_mailbox *mailbox, void *target);
    void (*mailbox_destroy)(mmebm_mailbox *mailbox);

    /* Optional, all or none: calls that do not wait for each other. After branch_fork, which follows all that was
     * queued, calls go to branch 0, or to branch k < MMEBM_BRANCHES after branch_enter; after branch_join they follow
     * all branches. No nesting. Branches write different memory, and none reads what another writes. */
    mmebm_status (*branch_fork)(mmebm_device *device, uint32_t branches);
    void (*branch_enter)(mmebm_device *device, uint32_t branch);
    mmebm_status (*branch_join)(mmebm_device *device);

    /* Optional, all or none: record the calls between begin and end, which are not carried out, and replay them all at
     * once. create makes an empty one; end puts the record into it, in place of an earlier one, or fails and leaves it
     * empty. */
    mmebm_status (*sequence_create)(mmebm_device *device, mmebm_sequence **sequence);
    mmebm_status (*sequence_begin)(mmebm_device *device);
    mmebm_status (*sequence_end)(mmebm_device *device, mmebm_sequence *sequence);
    mmebm_status (*sequence_replay)(mmebm_device *device, mmebm_sequence *sequence);
    void (*sequence_destroy)(mmebm_device *device, mmebm_sequence *sequence);
} mmebm_backend_ops;

/* The only symbol of a module. Returns NULL for an ABI that it does not know. */
#define MMEBM_BACKEND_ENTRY mmebm_backend_entry
typedef const mmebm_backend_ops *(*mmebm_backend_entry_fn)(uint32_t core_abi);

/* Built in. */
const mmebm_backend_ops *mmebm__reference_backend(void);

#endif /* MMEBM_BACKEND_API_H */
