/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_trainer: Algorithm 1 in the form of rulings section K. trainer.c holds the step, trainer_setup.c making
 * and destroying, optimiser.c what turns
 * gradients into weights, trainer_guard.c snapshots and rollback, diagnostics.c the numbers of a step,
 * trainer_file.c checkpoints.
 */
#ifndef MMEBM_TRAINER_H
#define MMEBM_TRAINER_H

#include "chain.h"
#include "joint.h"

enum { MMEBM_USER_STATE_SIZE = 65536 };

/* Diagnostics by number; names and formulas are in docs/training.md. The first block is computed on the device. */
#define MMEBM_DIAGNOSTIC_LIST(X)                                                                   \
    X(RECONSTRUCTION, "reconstruction")                                                            \
    X(SYNTHESIS, "synthesis")                                                                      \
    X(LOG_Q_DATA, "log_q_data")                                                                    \
    X(LOG_Q_REVISED, "log_q_revised")                                                              \
    X(ENERGY_DATA, "energy_data")                                                                  \
    X(ENERGY_REVISED, "energy_revised")                                                            \
    X(ENERGY_SQUARE_DATA, "energy_square_data")                                                    \
    X(ENERGY_SQUARE_REVISED, "energy_square_revised")                                              \
    X(ENERGY_MISMATCHED, "energy_mismatched")                                                      \
    X(ENERGY_SQUARE_MISMATCHED, "energy_square_mismatched")                                        \
    X(DISPLACEMENT, "displacement")                                                                \
    X(LATENT_NORM, "latent_norm")                                                                  \
    X(ACCEPTANCE, "acceptance")                                                                    \
    X(GRADIENT_NORM_ENERGY, "gradient_norm_energy")                                                \
    X(GRADIENT_NORM_GENERATOR, "gradient_norm_generator")                                          \
    X(GRADIENT_NORM_INFERENCE, "gradient_norm_inference")                                          \
    X(STEP_SIZE_Z, "step_size_z")                                                                  \
    X(STEP, "step")                                                                                \
    X(LOSS_GENERATOR, "loss_generator")                                                            \
    X(LOSS_INFERENCE, "loss_inference")                                                            \
    X(LOSS_ENERGY, "loss_energy")                                                                  \
    X(DE_RAW, "dE_raw")                                                                            \
    X(DE_SCALED, "dE_scaled")                                                                      \
    X(LOG_P_REVISED, "log_p_revised")                                                              \
    X(RATE_FACTOR, "rate_factor")                                                                  \
    X(ROLLBACKS, "rollbacks")

enum {
#define MMEBM_DIAGNOSTIC_ENUM(id, name) MMEBM_DIAGNOSTIC_##id,
    MMEBM_DIAGNOSTIC_LIST(MMEBM_DIAGNOSTIC_ENUM)
#undef MMEBM_DIAGNOSTIC_ENUM
    MMEBM_DIAGNOSTIC_COUNT,
    MMEBM_DIAGNOSTIC_DEVICE_COUNT = MMEBM_DIAGNOSTIC_STEP
};

/* What a checkpoint must hold beside arrays and options. Plain numbers only. */
typedef struct mmebm_trainer_counters {
    uint64_t step;             /* steps done and kept */
    uint64_t draws;            /* steps begun, undone ones included: the noise of step t is keyed by this */
    uint64_t updates;          /* Adam's t */
    uint64_t rollbacks;        /* of the trainer's life */
    uint64_t tries;            /* since the last new snapshot */
    uint64_t since_snapshot;   /* good steps since then */
    uint64_t valid_snapshots;  /* 0, 1 or 2 of the two slots hold one */
    uint64_t newest_snapshot;  /* slot */
    double rate_factor;        /* product of guard_rate over rollbacks */
    double reconstruction_mean; /* running mean that guard_loss multiplies; 0 before the first step */
    uint64_t snapshot_step[2], snapshot_updates[2];
} mmebm_trainer_counters;

/* One network's optimiser. All state that a snapshot or checkpoint must hold lies in one device block. */
typedef struct mmebm_optimiser {
    mmebm_context *context;
    mmebm_part *part;
    mmebm_adam_options adam;
    uint64_t revision;  /* of part, when last written here: another value means somebody set tensors */
    size_t count;       /* weights */
    size_t block_count; /* floats in block */
    float *block;       /* master | moment1 | moment2 | average | spectral */
    float *master, *moment1, *moment2;
    float *average;  /* NULL without ema */
    float *spectral; /* u, v, sigma of every weight matrix, one after another; NULL without spectral norm */
    size_t spectral_count;
    float *gradient;    /* not part of the state */
    float *norm2;       /* device scalar: squared gradient norm */
    float *momentum;    /* device, one a tensor: of running statistics; NULL if there are none */
    float *snapshot[2]; /* copies of block, NULL without guard */
} mmebm_optimiser;

enum { MMEBM_STEPS_UNDER_WAY = 2 };

struct mmebm_trainer {
    mmebm_context *context;
    mmebm_model *model; /* retained */
    mmebm_trainer_options options;
    mmebm_trainer_counters counters;
    double diagnostics[MMEBM_DIAGNOSTIC_COUNT];
    mmebm_optimiser optimisers[MMEBM_PART_COUNT];
    mmebm_graph posterior_graph;
    mmebm_weighted_plan energy_plan, generator_plan, posterior_plan, inference_plan;
    mmebm_joint joint; /* this and the next two only with prior_temperature */
    mmebm_graph tilted_graph;
    mmebm_weighted_plan tilted_plan;
    mmebm_sequence_cache sequences; /* of whole steps */
    /* Steps that are queued and whose results were not fetched: on a backend with mailboxes, up to as many as these. */
    uint32_t pending;
    uint32_t oldest_mail; /* number of the first one's; the others follow, in turns */
    mmebm_mailbox *mail[MMEBM_STEPS_UNDER_WAY];
    uint32_t experts; /* z chains a tuple: M or 1 */
    /* device memory, sizes in trainer.c */
    float *data[MMEBM_MAX_MODALITIES], *positive[MMEBM_MAX_MODALITIES]; /* positive == data without data_noise */
    float *mismatched[MMEBM_MAX_MODALITIES]; /* only with weight_mismatched */
    float *generated[MMEBM_MAX_MODALITIES], *revised[MMEBM_MAX_MODALITIES], *gradient_x[MMEBM_MAX_MODALITIES];
    float *mean[MMEBM_MAX_MODALITIES], *raw[MMEBM_MAX_MODALITIES];
    float *mean_gradient[MMEBM_MAX_MODALITIES], *raw_gradient[MMEBM_MAX_MODALITIES];
    float *prior, *latent, *gradient_z, *proposal, *proposal_gradient;
    float *prior_gradient, *prior_scales; /* of the tilted prior's chain: dE/dz; l, n */
    /* [experts * batch]; row_value: one for each branch of a step */
    float *row_value[MMEBM_BRANCHES], *row_other, *energy_z, *proposal_energy, *accepted;
    float *scales;   /* l, n of x; l, n of z (the latter adapted under MALA: checkpointed) */
    float *control;  /* rate and bias corrections of each network, weight of the average */
    float *results;  /* MMEBM_DIAGNOSTIC_DEVICE_COUNT numbers */
    float *scales_snapshot[2];
    uint64_t *key;   /* seed, first chain */
    unsigned char *user_state;
    size_t user_state_size;
    /* Tests only: start z from means and take this prior draw [batch, D] (host) instead of noise. */
    const float *witness_prior;
};

/* ---- for trainer_file.c: a checkpoint is the options, the counters, the model and these arrays. */
typedef struct mmebm_named_array {
    char name[64];
    float *device;
    size_t count;
} mmebm_named_array;
enum { MMEBM_TRAINER_MAX_ARRAYS = 32 };
/* Fills list and returns how many; the same for equal model and options. */
uint32_t mmebm__trainer_arrays(const mmebm_trainer *trainer, mmebm_named_array list[MMEBM_TRAINER_MAX_ARRAYS]);
/* After a load has set counters and arrays: brings everything that is derived from them up to date. */
mmebm_status mmebm__trainer_restored(mmebm_trainer *trainer);

/* ---- between the trainer's files */

/* Fetches the results of all steps that are still on the device: diagnostics, counters, the guard's verdict. Every call
 * that reads what a step leaves on the host starts with it. */
mmebm_status mmebm__trainer_collect(mmebm_trainer *trainer);

typedef struct mmebm_optimiser_spec {
    mmebm_part *part;
    const mmebm_adam_options *adam;
    int average, snapshots;
    uint64_t seed; /* of the spectral norm's start vectors */
} mmebm_optimiser_spec;
mmebm_status mmebm__optimiser_open(mmebm_context *context, const mmebm_optimiser_spec *spec,
                                   mmebm_optimiser *optimiser);
void mmebm__optimiser_close(mmebm_optimiser *optimiser);
/* Takes over weights that were set from outside since the last step. */
mmebm_status mmebm__optimiser_sync(mmebm_optimiser *optimiser);
mmebm_status mmebm__optimiser_begin(mmebm_optimiser *optimiser); /* gradient <- 0 */
/* control: device, rate and bias corrections; average_weight: device scalar; rows: tuples that gave gradients, for
 * running statistics. Writes the gradient norm to *norm. */
mmebm_status mmebm__optimiser_step(mmebm_optimiser *optimiser, const float *control, const float *average_weight,
                                   int64_t rows, float *norm);
/* Writes master (normalised if spectral) to the part. */
mmebm_status mmebm__optimiser_publish(mmebm_optimiser *optimiser);

/* After a step: a bad one is undone, a good one counted; every guard_interval good ones make a snapshot. */
mmebm_status mmebm__guard_watch(mmebm_trainer *trainer, int *good);
mmebm_status mmebm__guard_snapshot(mmebm_trainer *trainer);

/* Fills the host part of diagnostics from the device part. */
void mmebm__diagnostics_complete(mmebm_trainer *trainer);

/* Checks every field; the sentence names the one that is wrong. */
mmebm_status mmebm__trainer_options_check(mmebm_context *context, const mmebm_trainer_options *options);

#endif /* MMEBM_TRAINER_H */
