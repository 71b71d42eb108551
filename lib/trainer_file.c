/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints (docs/file-format.md, "Checkpoints"): a model file with the trainer's options and counters in the
 * metadata and its device arrays, the optimisers' state first, as further tensors. Weights are always stored as f32:
 * training goes on bit for bit.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fields.h"
#include "model_file.h"
#include "trainer.h"

static const char options_key[] = "mmebm.trainer.options", counters_key[] = "mmebm.trainer.counters",
                  user_state_name[] = "trainer.user_state";

/* ---- options and counters as JSON */

static const char *const precisions[] = {"f32", "bf16", "tf32", NULL}; /* a trainer has made its choice: never AUTO */
static const char *const methods[] = {"ula", "mala", NULL};
static const char *const reductions[] = {"sum", "mean", NULL};

#define COUNT(fields) (sizeof fields / sizeof fields[0])
#define FIELD(key, type) {#key, type, AT(key), 0, NULL, NULL}
#define FLOAT(key) FIELD(key, MMEBM_FIELD_FLOAT)
#define U32(key) FIELD(key, MMEBM_FIELD_U32)
#define U64(key) FIELD(key, MMEBM_FIELD_U64)
#define CHOICE(key, names) {#key, MMEBM_FIELD_CHOICE, AT(key), 0, names, NULL}
#define STRUCT(key, table) {#key, MMEBM_FIELD_STRUCT, AT(key), 0, NULL, &table}

#define AT(member) offsetof(mmebm_adam_options, member)
static const mmebm_field adam_fields[] = {FLOAT(rate),    FLOAT(beta1),     FLOAT(beta2),
                                          FLOAT(epsilon), FLOAT(clip_norm), U32(spectral_norm)};
static const mmebm_field_table adam_table = {adam_fields, COUNT(adam_fields), 0};
#undef AT

#define AT(member) offsetof(mmebm_training_chain, member)
static const mmebm_field chain_fields[] = {U32(n_steps),       CHOICE(method, methods), CHOICE(reduction, reductions),
                                           FLOAT(step_size),   FLOAT(noise_scale),      FLOAT(drift_clamp),
                                           FLOAT(drift_norm_clip)};
static const mmebm_field_table chain_table = {chain_fields, COUNT(chain_fields), 0};
#undef AT

#define AT(member) offsetof(mmebm_trainer_options, member)
static const mmebm_field option_fields[] = {
    U32(batch),
    CHOICE(precision, precisions),
    U32(stratified),
    U64(seed),
    STRUCT(langevin_x, chain_table),
    STRUCT(langevin_z, chain_table),
    FLOAT(mala_target),
    FLOAT(mala_rate),
    FLOAT(mala_min),
    FLOAT(mala_max),
    STRUCT(energy, adam_table),
    STRUCT(generator, adam_table),
    STRUCT(inference, adam_table),
    FLOAT(weight_reconstruction),
    FLOAT(weight_synthesis),
    FLOAT(weight_inference),
    FLOAT(weight_inference_revised),
    FLOAT(energy_penalty),
    FLOAT(temperature),
    FLOAT(data_noise),
    FLOAT(ema),
    U32(schedule_steps),
    FLOAT(schedule_end),
    U32(guard_interval),
    U32(guard_tries),
    FLOAT(guard_rate),
    FLOAT(guard_loss),
    FLOAT(guard_energy),
    FLOAT(guard_latent),
    FLOAT(weight_mismatched),
    FLOAT(prior_temperature),
    STRUCT(langevin_prior, chain_table),
};
static const mmebm_field_table option_table = {option_fields, COUNT(option_fields), 3};
#undef AT

/* stale_<part>: somebody set weights since the last step, so that the masters in the part's state are out of date. */
typedef struct stored_counters {
    mmebm_trainer_counters c;
    uint32_t stale[MMEBM_PART_COUNT];
} stored_counters;

#define COUNTER(key, type) {#key, type, offsetof(stored_counters, c.key), 0, NULL, NULL}
#define STALE(key, part)                                                                           \
    {key, MMEBM_FIELD_U32, offsetof(stored_counters, stale) + (part) * sizeof(uint32_t), 0, NULL, NULL}
static const mmebm_field counter_fields[] = {
    COUNTER(step, MMEBM_FIELD_U64),
    COUNTER(draws, MMEBM_FIELD_U64),
    COUNTER(updates, MMEBM_FIELD_U64),
    COUNTER(rollbacks, MMEBM_FIELD_U64),
    COUNTER(tries, MMEBM_FIELD_U64),
    COUNTER(since_snapshot, MMEBM_FIELD_U64),
    COUNTER(valid_snapshots, MMEBM_FIELD_U64),
    COUNTER(newest_snapshot, MMEBM_FIELD_U64),
    COUNTER(rate_factor, MMEBM_FIELD_DOUBLE),
    COUNTER(reconstruction_mean, MMEBM_FIELD_DOUBLE),
    COUNTER(snapshot_step, MMEBM_FIELD_U64_PAIR),
    COUNTER(snapshot_updates, MMEBM_FIELD_U64_PAIR),
    STALE("stale_energy", MMEBM_PART_ENERGY),
    STALE("stale_generator", MMEBM_PART_GENERATOR),
    STALE("stale_inference", MMEBM_PART_INFERENCE),
};
static const mmebm_field_table counter_table = {counter_fields, COUNT(counter_fields), 0};

/* Every member of the public struct is in the tables: another size means that one is missing there. */
_Static_assert(sizeof(mmebm_trainer_options) == 288, "a new option needs a line in option_fields");
_Static_assert(sizeof(mmebm_trainer_counters) == 112, "a new counter needs a line in counter_fields");

/* ---- saving */

/* arrays must live until the draft is saved: the tensors' names are there. */
static void draft_trainer(mmebm_file_draft *draft, const mmebm_trainer *trainer, uint32_t array_count,
                          const mmebm_named_array *arrays)
{
    stored_counters counters = {.c = trainer->counters};
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        counters.stale[p] = trainer->optimisers[p].revision != trainer->optimisers[p].part->revision;
    mmebm_text *text = mmebm__draft_value(draft, options_key);
    mmebm__text_raw(text, "{");
    mmebm__fields_write(text, &option_table, &trainer->options);
    mmebm__text_raw(text, "}");
    text = mmebm__draft_value(draft, counters_key);
    mmebm__text_raw(text, "{");
    mmebm__fields_write(text, &counter_table, &counters);
    mmebm__text_raw(text, "}");
    for (uint32_t a = 0; a < array_count; ++a) {
        const int64_t shape[1] = {(int64_t)arrays[a].count};
        mmebm_stored_tensor *stored = mmebm__draft_tensor(draft);
        mmebm__stored_describe(stored, arrays[a].name, MMEBM_STORED_F32, 1, shape);
        stored->memory = arrays[a].device;
        stored->on_device = 1;
    }
    const int64_t shape[1] = {(int64_t)trainer->user_state_size};
    mmebm_stored_tensor *stored = mmebm__draft_tensor(draft);
    mmebm__stored_describe(stored, user_state_name, MMEBM_STORED_U8, 1, shape);
    stored->memory = trainer->user_state;
}

mmebm_status mmebm_trainer_save(const mmebm_trainer *trainer, const char *path, const mmebm_save_options *given)
{
    if (!trainer) return MMEBM_E_ARGUMENT;
    mmebm_context *context = trainer->context;
    mmebm_save_options options;
    mmebm_file_draft draft;
    mmebm_named_array arrays[MMEBM_TRAINER_MAX_ARRAYS];
    mmebm__clear_error(context);
    MMEBM_TRY(mmebm__save_options_read(context, "trainer_save", path, given, &options));
    MMEBM_TRY(mmebm__trainer_collect((mmebm_trainer *)trainer));
    const uint32_t array_count = mmebm__trainer_arrays(trainer, arrays);
    const uint32_t tensor_count = mmebm_model_tensor_count(trainer->model) + array_count + 1;
    MMEBM_TRY(mmebm__draft_begin(context, MMEBM_FILE_TRAINER, tensor_count, &draft));
    mmebm__draft_model(&draft, trainer->model, MMEBM_STORED_F32);
    draft_trainer(&draft, trainer, array_count, arrays);
    const mmebm_status status = mmebm__draft_save(&draft, path, &options);
    mmebm__draft_end(&draft);
    return status;
}

/* ---- loading */

static mmebm_status read_object(mmebm_context *context, const char *path, const mmebm_safetensors *file,
                                const char *key, const mmebm_field_table *table, void *memory)
{
    const char *text;
    char what[256];
    mmebm_json json;
    snprintf(what, sizeof what, "'%.180s': %s", path, key);
    MMEBM_TRY(mmebm__safetensors_metadata(file, key, &text));
    MMEBM_TRY(mmebm__json_parse(context, what, text, strlen(text), &json));
    const mmebm_status status = mmebm__fields_read(&json, 0, table, memory, 0, NULL, NULL);
    mmebm__json_free(&json);
    return status;
}

/* Counters that are used as an index or a divisor must be in their ranges. */
static mmebm_status check_counters(mmebm_context *context, const char *path, const stored_counters *stored)
{
    const mmebm_trainer_counters *c = &stored->c;
    if (c->newest_snapshot <= 1 && c->valid_snapshots <= 2 && isfinite(c->rate_factor) && c->rate_factor > 0.0)
        return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_FORMAT, "'%s': %s: a counter is out of range", path, counters_key);
}

/* Names the trainer's memory as target of its stored arrays and its user state. *count = how many these are. */
static mmebm_status target_state(mmebm_context *context, const char *path, mmebm_safetensors *file,
                                 mmebm_trainer *trainer, uint32_t *count)
{
    mmebm_named_array arrays[MMEBM_TRAINER_MAX_ARRAYS];
    const uint32_t array_count = mmebm__trainer_arrays(trainer, arrays);
    for (uint32_t a = 0; a < array_count; ++a) {
        const int64_t shape[1] = {(int64_t)arrays[a].count};
        MMEBM_TRY(mmebm__safetensors_target(file, arrays[a].name, 1, shape, arrays[a].device, 1));
    }
    mmebm_stored_tensor *user_state = mmebm__safetensors_find(file, user_state_name);
    if (!user_state || user_state->dtype != MMEBM_STORED_U8 || user_state->rank != 1 ||
        user_state->count > MMEBM_USER_STATE_SIZE)
        return mmebm__fail(context, MMEBM_E_FORMAT, "'%s': wanted a tensor '%s' of at most %d bytes, dtype U8", path,
                           user_state_name, MMEBM_USER_STATE_SIZE);
    user_state->memory = trainer->user_state;
    trainer->user_state_size = user_state->count;
    *count = array_count + 1;
    return MMEBM_OK;
}

/* A trainer for the model, with the options and counters of the file. */
static mmebm_status make_trainer(mmebm_context *context, const char *path, const mmebm_safetensors *file,
                                 mmebm_model *model, stored_counters *counters, mmebm_trainer **trainer)
{
    mmebm_trainer_options options = {.struct_size = sizeof options};
    MMEBM_TRY(read_object(context, path, file, options_key, &option_table, &options));
    MMEBM_TRY(read_object(context, path, file, counters_key, &counter_table, counters));
    MMEBM_TRY(check_counters(context, path, counters));
    const mmebm_status status = mmebm_trainer_create(model, &options, trainer);
    /* nothing is wrong with the file: another backend reads it */
    if (status == MMEBM_E_UNSUPPORTED) return mmebm__fail(context, status, "'%.180s': %s", path, context->error);
    if (status != MMEBM_OK) return mmebm__refused_content(context, path, status);
    (*trainer)->counters = counters->c;
    return MMEBM_OK;
}

static mmebm_status load_trainer(mmebm_context *context, const char *path, mmebm_safetensors *file,
                                 mmebm_model **model, mmebm_trainer **trainer)
{
    stored_counters counters;
    uint32_t model_tensors, state_tensors;
    MMEBM_TRY(mmebm__file_model(context, path, file, model, &model_tensors));
    MMEBM_TRY(make_trainer(context, path, file, *model, &counters, trainer));
    MMEBM_TRY(target_state(context, path, file, *trainer, &state_tensors));
    MMEBM_TRY(mmebm__file_check_count(context, path, file, model_tensors + state_tensors));
    MMEBM_TRY(mmebm__safetensors_load(file));
    MMEBM_TRY(context->ops->synchronize(context->device));
    MMEBM_TRY(mmebm__trainer_restored(*trainer));
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        if (counters.stale[p]) --(*trainer)->optimisers[p].revision;
    return MMEBM_OK;
}

mmebm_status mmebm_trainer_load(mmebm_context *context, const char *path, mmebm_model **model, mmebm_trainer **trainer)
{
    if (model) *model = NULL;
    if (trainer) *trainer = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!path || !model || !trainer)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer_load: %s is NULL",
                           !path ? "path" : model ? "trainer" : "model");
    mmebm_safetensors *file;
    MMEBM_TRY(mmebm__file_open(context, path, MMEBM_FILE_TRAINER, MMEBM_FILE_TRAINER, &file));
    const mmebm_status status = load_trainer(context, path, file, model, trainer);
    mmebm__safetensors_close(&file);
    if (status != MMEBM_OK) {
        mmebm_trainer_destroy(trainer);
        mmebm_model_destroy(model);
    }
    return status;
}
