/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on whole graphs: copy, join (networks of one kind into a model's part), extract (the part that computes
 * some outputs), the posterior's energy, which is an extract of the generator with losses on top, and that under a
 * tilted prior, which has the energy network on top of the generator too:
 *   E(z) = sum_{i in O} NLL_i(x_i | z) - log p0(z)                                      Eqns 8, 17
 *   E(z) = U(G(z)) / T + sum_{i in O} NLL_i(x_i | z) - log p0(z)
 * Called by model.c, the sampler and the trainer. All leave their result zeroed when they fail.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

/* ---- memory */

void mmebm__graph_free(mmebm_context *context, mmebm_graph *graph)
{
    mmebm__free(context, graph->layers, graph->layer_room * sizeof *graph->layers);
    mmebm__free(context, graph->edges, graph->edge_room * sizeof *graph->edges);
    mmebm__free(context, graph->tensors, graph->tensor_room * sizeof *graph->tensors);
    mmebm__free(context, graph->inputs, graph->input_room * sizeof *graph->inputs);
    mmebm__free(context, graph->outputs, graph->output_room * sizeof *graph->outputs);
    memset(graph, 0, sizeof *graph);
}

/* Arrays for as many entries as the counts of `wanted`; the new graph's own counts stay 0. */
static mmebm_status allocate_graph(mmebm_context *context, const mmebm_graph *wanted, mmebm_graph *graph)
{
    *graph = (mmebm_graph){.layer_room = wanted->layer_count,
                           .edge_room = wanted->edge_count,
                           .tensor_room = wanted->tensor_count,
                           .input_room = wanted->input_count,
                           .output_room = wanted->output_count};
    graph->layers = mmebm__allocate(context, graph->layer_room * sizeof *graph->layers);
    graph->edges = mmebm__allocate(context, graph->edge_room * sizeof *graph->edges);
    graph->tensors = mmebm__allocate(context, graph->tensor_room * sizeof *graph->tensors);
    graph->inputs = mmebm__allocate(context, graph->input_room * sizeof *graph->inputs);
    graph->outputs = mmebm__allocate(context, graph->output_room * sizeof *graph->outputs);
    if (graph->layers && graph->edges && graph->tensors && graph->inputs && graph->outputs) return MMEBM_OK;
    mmebm__graph_free(context, graph);
    return MMEBM_E_MEMORY;
}

/* ---- one layer from graph to graph */

static int32_t shifted(int32_t tensor, uint32_t by)
{
    return tensor < 0 ? -1 : tensor + (int32_t)by;
}

/* Appends layer `index` of source, its tensor numbers shifted; map gives the new number of its inputs and gets its own.
 * There is room. */
static void move_layer(mmebm_graph *graph, const mmebm_graph *source, uint32_t index, uint32_t tensor_shift,
                       int32_t *map)
{
    mmebm_layer layer = source->layers[index];
    const int32_t *edges = source->edges + layer.first_edge;
    layer.first_edge = graph->edge_count;
    for (uint32_t k = 0; k < layer.edge_count; ++k) graph->edges[graph->edge_count++] = map[edges[k]];
    layer.weight = shifted(layer.weight, tensor_shift);
    layer.bias = shifted(layer.bias, tensor_shift);
    layer.mean = shifted(layer.mean, tensor_shift);
    layer.variance = shifted(layer.variance, tensor_shift);
    map[index] = (int32_t)graph->layer_count;
    if (layer.kind == MMEBM_LAYER_INPUT) graph->inputs[graph->input_count++] = map[index];
    graph->layers[graph->layer_count++] = layer;
}

/* ---- copy */

static void copy_tensors(const mmebm_graph *source, mmebm_graph *graph)
{
    memcpy(graph->tensors, source->tensors, source->tensor_count * sizeof *source->tensors);
    graph->tensor_count = source->tensor_count;
    graph->weight_count = source->weight_count;
}

mmebm_status mmebm__graph_copy(mmebm_context *context, const mmebm_graph *source, mmebm_graph *copy)
{
    MMEBM_TRY(allocate_graph(context, source, copy));
    memcpy(copy->layers, source->layers, source->layer_count * sizeof *source->layers);
    memcpy(copy->edges, source->edges, source->edge_count * sizeof *source->edges);
    memcpy(copy->inputs, source->inputs, source->input_count * sizeof *source->inputs);
    memcpy(copy->outputs, source->outputs, source->output_count * sizeof *source->outputs);
    copy->layer_count = source->layer_count;
    copy->edge_count = source->edge_count;
    copy->input_count = source->input_count;
    copy->output_count = source->output_count;
    copy_tensors(source, copy);
    return MMEBM_OK;
}

/* ---- join */

/* Counts of the joined graph; under share_inputs the inputs of all parts but the first go. */
static mmebm_graph joined_counts(uint32_t count, const mmebm_graph *const *parts, int share_inputs)
{
    mmebm_graph sum = {0};
    for (uint32_t p = 0; p < count; ++p) {
        const uint32_t inputs = share_inputs && p ? 0 : parts[p]->input_count;
        sum.layer_count += parts[p]->layer_count - parts[p]->input_count + inputs;
        sum.edge_count += parts[p]->edge_count;
        sum.tensor_count += parts[p]->tensor_count;
        sum.input_count += inputs;
        sum.output_count += parts[p]->output_count;
    }
    return sum;
}

/* Sends the inputs of a later part to those of the first. */
static mmebm_status share(mmebm_context *context, const mmebm_graph *joined, const mmebm_graph *part,
                          const char *prefix, int32_t *map)
{
    if (part->input_count != joined->input_count)
        return mmebm__fail(context, MMEBM_E_SHAPE, "%s has %u inputs, wanted %u as the first", prefix,
                           (unsigned)part->input_count, (unsigned)joined->input_count);
    for (uint32_t i = 0; i < part->input_count; ++i) {
        const mmebm_layer *own = &part->layers[part->inputs[i]], *first = &joined->layers[joined->inputs[i]];
        if (own->rank != first->rank || memcmp(own->shape, first->shape, sizeof own->shape) != 0)
            return mmebm__fail(context, MMEBM_E_SHAPE, "%s: input %u has not the shape of the first's", prefix,
                               (unsigned)i);
        map[part->inputs[i]] = joined->inputs[i];
    }
    return MMEBM_OK;
}

/* Weights of the part follow those that are there. */
static void add_tensors(mmebm_graph *joined, const mmebm_graph *part)
{
    for (uint32_t t = 0; t < part->tensor_count; ++t) {
        mmebm_tensor *tensor = &joined->tensors[joined->tensor_count++];
        *tensor = part->tensors[t];
        tensor->offset += joined->weight_count;
    }
    joined->weight_count += part->weight_count;
}

static mmebm_status join_tensors(mmebm_context *context, mmebm_graph *joined, const mmebm_graph *part,
                                 const char *prefix)
{
    mmebm_tensor *added = joined->tensors + joined->tensor_count;
    add_tensors(joined, part);
    for (uint32_t t = 0; t < part->tensor_count; ++t) {
        mmebm_tensor *tensor = &added[t];
        const int length = snprintf(tensor->name, sizeof tensor->name, "%s.%s", prefix, part->tensors[t].name);
        if (length >= (int)sizeof tensor->name)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "with '%s.' the tensor name '%s' has %d characters, at most "
                               "%d fit", prefix, part->tensors[t].name, length, (int)sizeof tensor->name - 1);
    }
    return MMEBM_OK;
}

static mmebm_status join_part(mmebm_context *context, mmebm_graph *joined, const mmebm_graph *part, const char *prefix,
                              int inputs_shared, int32_t *map)
{
    const uint32_t tensor_shift = joined->tensor_count;
    if (inputs_shared) MMEBM_TRY(share(context, joined, part, prefix, map));
    for (uint32_t i = 0; i < part->layer_count; ++i)
        if (!inputs_shared || part->layers[i].kind != MMEBM_LAYER_INPUT)
            move_layer(joined, part, i, tensor_shift, map);
    for (uint32_t o = 0; o < part->output_count; ++o) joined->outputs[joined->output_count++] = map[part->outputs[o]];
    return join_tensors(context, joined, part, prefix);
}

mmebm_status mmebm__graph_join(mmebm_context *context, uint32_t count, const mmebm_graph *const *parts,
                               const char (*prefix)[MMEBM_PREFIX_SIZE], int share_inputs, mmebm_graph *joined)
{
    const mmebm_graph sum = joined_counts(count, parts, share_inputs);
    uint32_t most_layers = 0;
    for (uint32_t p = 0; p < count; ++p)
        if (parts[p]->layer_count > most_layers) most_layers = parts[p]->layer_count;
    MMEBM_TRY(allocate_graph(context, &sum, joined));
    int32_t *map = mmebm__allocate(context, most_layers * sizeof *map);
    mmebm_status status = map ? MMEBM_OK : MMEBM_E_MEMORY;
    for (uint32_t p = 0; p < count && status == MMEBM_OK; ++p)
        status = join_part(context, joined, parts[p], prefix[p], share_inputs && p, map);
    mmebm__free(context, map, most_layers * sizeof *map);
    if (status != MMEBM_OK) mmebm__graph_free(context, joined);
    return status;
}

/* ---- extract */

void mmebm__graph_reach(const mmebm_graph *graph, uint32_t count, const int32_t *outputs, unsigned char *reached)
{
    for (uint32_t o = 0; o < count; ++o) reached[outputs[o]] = 1;
    for (uint32_t i = graph->layer_count; i-- > 0;) { /* edges point backwards: one sweep sees every path */
        const mmebm_layer *layer = &graph->layers[i];
        for (uint32_t k = 0; reached[i] && k < layer->edge_count; ++k) reached[graph->edges[layer->first_edge + k]] = 1;
    }
}

/* Moves what is reached; both scratch arrays have layer_count entries. */
static mmebm_status extract_with(mmebm_context *context, const mmebm_graph *graph, uint32_t count,
                                 const uint32_t *outputs, unsigned char *reached, int32_t *map, mmebm_graph *part)
{
    mmebm_graph wanted = *graph;
    wanted.output_count = count;
    MMEBM_TRY(allocate_graph(context, &wanted, part));
    for (uint32_t o = 0; o < count; ++o) part->outputs[o] = graph->outputs[outputs[o]];
    mmebm__graph_reach(graph, count, part->outputs, reached);
    for (uint32_t i = 0; i < graph->layer_count; ++i)
        if (reached[i]) move_layer(part, graph, i, 0, map);
    for (uint32_t o = 0; o < count; ++o) part->outputs[o] = map[part->outputs[o]];
    part->output_count = count;
    copy_tensors(graph, part);
    return MMEBM_OK;
}

mmebm_status mmebm__graph_extract(mmebm_context *context, const mmebm_graph *graph, uint32_t count,
                                  const uint32_t *outputs, mmebm_graph *part)
{
    memset(part, 0, sizeof *part);
    unsigned char *reached = mmebm__allocate(context, graph->layer_count);
    int32_t *map = mmebm__allocate(context, graph->layer_count * sizeof *map);
    mmebm_status status = MMEBM_E_MEMORY;
    if (reached && map) status = extract_with(context, graph, count, outputs, reached, map, part);
    mmebm__free(context, map, graph->layer_count * sizeof *map);
    mmebm__free(context, reached, graph->layer_count);
    return status;
}

/* ---- posterior */

static mmebm_status append(mmebm_context *context, mmebm_graph *graph, const mmebm_layer *settings,
                           const mmebm_node *inputs, uint32_t count, mmebm_node *node)
{
    const mmebm_layer_request request = {
        .owner = "posterior", .settings = *settings, .inputs = inputs, .input_count = count};
    return mmebm__graph_append(context, graph, &request, node);
}

/* x_i as a new input, and NLL_i(x_i | mean). */
static mmebm_status append_likelihood(const mmebm_model *model, uint32_t i, mmebm_graph *graph, mmebm_node mean,
                                      mmebm_node *loss)
{
    const mmebm_modality *modality = &model->modalities[i];
    mmebm_layer input = {.kind = MMEBM_LAYER_INPUT, .rank = modality->rank};
    memcpy(input.shape, modality->shape, sizeof input.shape);
    const mmebm_layer nll = {.kind = MMEBM_LAYER_NLL,
                             .likelihood = modality->likelihood,
                             .scale = modality->scale,
                             .loss_factor = modality->weight};
    mmebm_node target;
    MMEBM_TRY(append(model->context, graph, &input, NULL, 0, &target));
    return append(model->context, graph, &nll, (const mmebm_node[]){mean, target}, 2, loss);
}

static mmebm_status append_sum(mmebm_context *context, mmebm_graph *graph, mmebm_node term, mmebm_node *total)
{
    static const mmebm_layer sum = {.kind = MMEBM_LAYER_ADD, .alpha = 1.0f, .beta = 1.0f};
    if (*total >= 0) return append(context, graph, &sum, (const mmebm_node[]){*total, term}, 2, total);
    *total = term;
    return MMEBM_OK;
}

/* -log p0 of the first input, z. */
static mmebm_status append_prior(const mmebm_model *model, mmebm_graph *graph, mmebm_node *term)
{
    const mmebm_layer prior = {.kind = MMEBM_LAYER_PRIOR,
                               .likelihood = model->options.prior,
                               .scale = model->options.prior_scale};
    return append(model->context, graph, &prior, &graph->inputs[0], 1, term);
}

/* likelihood: sum_{i in O} NLL_i(x_i | means[i]), or -1 where nothing is observed; energy: the same with -log p0(z). */
static mmebm_status append_density(const mmebm_model *model, uint64_t observed, const mmebm_node *means,
                                   mmebm_graph *graph, mmebm_node *likelihood, mmebm_node *energy)
{
    mmebm_node term;
    *likelihood = -1;
    for (uint32_t i = 0; i < model->options.n_modalities; ++i) {
        if (!(observed >> i & 1)) continue;
        MMEBM_TRY(append_likelihood(model, i, graph, means[i], &term));
        MMEBM_TRY(append_sum(model->context, graph, term, likelihood));
    }
    MMEBM_TRY(append_prior(model, graph, &term));
    *energy = *likelihood;
    return append_sum(model->context, graph, term, energy);
}

/* Puts the losses on top of the decoders' means, which become inner nodes. */
static mmebm_status append_energy(const mmebm_model *model, uint64_t observed, const mmebm_node *means,
                                  mmebm_graph *graph)
{
    mmebm_node likelihood, energy;
    MMEBM_TRY(append_density(model, observed, means, graph, &likelihood, &energy));
    graph->output_count = 0;
    MMEBM_TRY(mmebm__graph_output(model->context, graph, "posterior", energy));
    return mmebm__graph_output(model->context, graph, "likelihood", likelihood);
}

mmebm_status mmebm__graph_posterior(const mmebm_model *model, uint64_t observed, mmebm_graph *posterior)
{
    mmebm_context *context = model->context;
    const uint32_t modalities = model->options.n_modalities;
    uint32_t list[MMEBM_MAX_MODALITIES], count = 0;
    mmebm_node means[MMEBM_MAX_MODALITIES];
    memset(posterior, 0, sizeof *posterior);
    for (uint32_t i = 0; i < modalities; ++i)
        if (observed >> i & 1) list[count++] = i;
    if (!count || observed >> modalities)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "the observed set is %#llx, wanted at least one of modalities 0 "
                           "to %u", (unsigned long long)observed, (unsigned)modalities - 1);
    MMEBM_TRY(mmebm__graph_extract(context, &model->parts[MMEBM_PART_GENERATOR].graph, count, list, posterior));
    for (uint32_t k = 0; k < count; ++k) means[list[k]] = posterior->outputs[k];
    const mmebm_status status = append_energy(model, observed, means, posterior);
    if (status != MMEBM_OK) mmebm__graph_free(context, posterior);
    return status;
}

/* ---- the same under a tilted prior */

/* The layers of both, the generator's means in place of the energy's inputs, which have their shapes; map has room for
 * either's layers. `u` is the energy. */
static void stack_layers(const mmebm_graph *generator, const mmebm_graph *energy, int32_t *map, mmebm_graph *stack,
                         mmebm_node *means, mmebm_node *u)
{
    for (uint32_t i = 0; i < generator->layer_count; ++i) move_layer(stack, generator, i, 0, map);
    for (uint32_t o = 0; o < generator->output_count; ++o) means[o] = map[generator->outputs[o]];
    add_tensors(stack, generator);
    const uint32_t shift = stack->tensor_count;
    for (uint32_t i = 0; i < energy->input_count; ++i) map[energy->inputs[i]] = means[i];
    for (uint32_t i = 0; i < energy->layer_count; ++i)
        if (energy->layers[i].kind != MMEBM_LAYER_INPUT) move_layer(stack, energy, i, shift, map);
    add_tensors(stack, energy);
    *u = map[energy->outputs[0]];
}

static mmebm_status append_tilt(const mmebm_model *model, uint64_t observed, float temperature,
                                const mmebm_node *means, mmebm_node u, mmebm_graph *tilted)
{
    mmebm_context *context = model->context;
    const mmebm_layer sum = {.kind = MMEBM_LAYER_ADD, .alpha = 1.0f / temperature, .beta = 1.0f};
    mmebm_node likelihood, energy;
    MMEBM_TRY(append_density(model, observed, means, tilted, &likelihood, &energy));
    MMEBM_TRY(append(context, tilted, &sum, (const mmebm_node[]){u, energy}, 2, &energy));
    return mmebm__graph_output(context, tilted, "tilted posterior", energy);
}

mmebm_status mmebm__prior_temperature_check(mmebm_context *context, const char *what, float temperature)
{
    const int divides = temperature > 0.0f && isfinite(temperature) && isfinite(1.0f / temperature);
    if (temperature == 0.0f || divides) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT,
                       "%s: prior_temperature is %g, wanted 0, or more and with a finite inverse", what,
                       (double)temperature);
}

mmebm_status mmebm__graph_tilted(const mmebm_model *model, uint64_t observed, float temperature, mmebm_graph *tilted)
{
    mmebm_context *context = model->context;
    const mmebm_graph *generator = &model->parts[MMEBM_PART_GENERATOR].graph;
    const mmebm_graph *energy = &model->parts[MMEBM_PART_ENERGY].graph, *const both[] = {generator, energy};
    const mmebm_graph counts = joined_counts(2, both, 0);
    const size_t layers = generator->layer_count + (size_t)energy->layer_count;
    mmebm_node means[MMEBM_MAX_MODALITIES], u;
    MMEBM_TRY(allocate_graph(context, &counts, tilted));
    int32_t *map = mmebm__allocate(context, layers * sizeof *map);
    if (map) stack_layers(generator, energy, map, tilted, means, &u);
    const mmebm_status status =
        map ? append_tilt(model, observed, temperature, means, u, tilted) : MMEBM_E_MEMORY;
    mmebm__free(context, map, layers * sizeof *map);
    if (status != MMEBM_OK) mmebm__graph_free(context, tilted);
    return status;
}
