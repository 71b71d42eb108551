/* SPDX-License-Identifier: Apache-2.0
 *
 * A plan of the CUDA backend: one node for each layer of the graph, and one block of device memory. Fusion is settled
 * when the plan is made (cuda_plan.cu); a run walks the nodes (cuda_run.cu).
 *
 * Views. A layer that only relabels numbers has no memory of its own: a reshape, a relu after a product (whose epilogue
 * stores the activated copy beside or instead of the raw one), a nearest upsampling by 2 (whose readers halve their
 * coordinates). Its node names the `base` whose memory it reads, which copy, and by how much coordinates shrink. A
 * single tap at a doubled image gives a doubled image: it runs at the low resolution, where its own values lie, and is
 * the only product whose node shrinks.
 *
 * Groups. A product (conv2d, conv_transpose2d, linear) takes over layers that read it alone: a 2 x 2 average pool, a
 * sum with something that exists already. It runs where its last layer, the `tail`, stands; the layers between have no
 * memory.
 */
#ifndef MMEBM_CUDA_PLAN_H
#define MMEBM_CUDA_PLAN_H

#include "cuda_lanes.h"
#include "cuda_tensor.h"

struct cuda_node {
    /* where the layer's values lie */
    int32_t base, activated, shrink;
    int32_t done; /* nothing to run: a view, or inside a group */
    int32_t lane; /* that the layer runs in */
    /* of a base */
    cuda_tensor raw, act; /* data NULL = not stored */
    int32_t act_layer;    /* that reads the activated copy; -1 = none */
    float act_slope;
    int32_t raw_read;     /* somebody reads the raw copy */
    cuda_tensor gradient; /* own memory for the gradient */
    int32_t product;      /* of which this layer is the tail; -1 = none */
    /* of a product */
    int32_t tail, pooled, sum; /* sum: layer number of the addition taken over, -1 = none */
    int32_t sum_edge;          /* which input of it the product is */
    cuda_geometry forward, backward;
    int32_t phases; /* not CUDA_WHOLE: the products of the layer and of its source's gradient run at the low resolution
                       (cuda_geometry), by the two below */
    cuda_geometry phased_forward, phased_backward;
    int32_t in_channels, out_channels;
    int32_t factors, factors_back; /* enum cuda_factors: of the layer and of its source's gradient */
    void *packed_forward, *packed_backward; /* weights */
    cuda_tensor packed_source;              /* an aligned copy of the source, or of all; data NULL = not needed */
    /* gradients by inputs on their way to them: of layers without weights; [0], of products that share an input */
    cuda_tensor by_input[2];
    int32_t placed; /* base inside a concatenation's memory */
    /* cuda_memory.cu: the layer in whose turn it runs; of a base, until when its values are read and whether in its
     * lane, and the same of references to its gradient; slots, -1 = memory of its own */
    int32_t turn, last_turn, read_in_lane, until, contained;
    int32_t raw_slot, act_slot, gradient_slot;
    /* of an addition of single numbers: how many it adds up (0: otherwise), with those of additions folded into it */
    int32_t terms, folded;
    /* Of a concatenation of equal convolutions of inputs: they run as one, with zero weights between them. The node
     * then has a product's fields too. */
    int32_t merged;              /* also of its parts: they do not run on their own */
    float *merged_bias;          /* device, out_channels; NULL without */
    cuda_tensor merged_gradient; /* by all inputs side by side, f32 */
};

/* Memory that values or gradients of one lane have one after another. */
struct cuda_slot {
    void *data;
    size_t bytes;
    int32_t lane, end;
};

/* Gradient of a base's values collected so far in a run. */
struct cuda_collected {
    cuda_operand value; /* in the geometry of the base */
    int32_t set;
    uint32_t lanes; /* that made it, as a set */
};

struct mmebm_plan {
    mmebm_device *device;
    const mmebm_graph *graph;
    size_t host_bytes, device_bytes;
    char *memory; /* device */
    int64_t capacity;
    int32_t type; /* TYPE_BF16 or TYPE_F32: of values inside */
    int32_t tf32; /* products round their factors to tf32 */
    cuda_node *nodes;
    cuda_collected *collected;
    unsigned char *wanted, *idle; /* of the current run: gradients, values that nobody reads */
    unsigned char *is_output;
    int32_t *readers, *sole_reader; /* how many edges lead from a layer, and one of their ends */
    float *weights;                 /* device: copy for biases and batch norm */
    cuda_slot *slots; /* at most two a layer */
    int32_t slot_count;
    int32_t lanes;                  /* in use: cuda_lanes.h */
    int32_t *order, *round; /* layers as they run; [layer]: those of a round do not read each other's values */
    int64_t in_step;        /* lanes are equal and, up to so many rows, go from round to round together */
    void *gradient_copy[CUDA_LANES]; /* device: an aligned copy of one product's gradient */
    float *partials[CUDA_LANES];     /* device */
};

static inline int32_t layer_input(const mmebm_graph *graph, int32_t layer, uint32_t k)
{
    return graph->edges[graph->layers[layer].first_edge + k];
}

/* The i-th layer that runs is not of the round of the one before it. */
static inline int begins_round(const mmebm_plan *plan, uint32_t i)
{
    return i == 0 || plan->round[plan->order[i]] != plan->round[plan->order[i - 1]];
}

static inline int is_product(const mmebm_layer *layer)
{
    return layer->kind == MMEBM_LAYER_CONV2D || layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D ||
           layer->kind == MMEBM_LAYER_LINEAR;
}

static inline int is_loss(const mmebm_layer *layer)
{
    return layer->kind == MMEBM_LAYER_NLL || layer->kind == MMEBM_LAYER_PRIOR;
}

/* A 2 x 2 average pool of an even image: it can be told by halved coordinates. */
static inline int is_halving_pool(const mmebm_layer *layer, const mmebm_layer *from)
{
    return layer->kind == MMEBM_LAYER_AVG_POOL && layer->kernel[0] == 2 && layer->kernel[1] == 2 &&
           layer->stride[0] == 2 && layer->stride[1] == 2 && !layer->padding[0] && !layer->padding[1] &&
           from->shape[0] % 2 == 0 && from->shape[1] % 2 == 0;
}

/* Height, width and channels of a layer's values, whole (shrink 1) or as they lie in memory; data and type unset. */
static inline cuda_tensor layer_shape(const mmebm_layer *layer, int32_t shrink)
{
    cuda_tensor shape = {};
    shape.channels = layer->rank ? (int32_t)layer->shape[layer->rank - 1] : 1;
    shape.height = layer->rank == 3 ? (int32_t)layer->shape[0] : (int32_t)(layer->count / shape.channels);
    shape.width = layer->rank == 3 ? (int32_t)layer->shape[1] : 1;
    shape.height /= shrink;
    shape.width = layer->rank == 3 ? shape.width / shrink : 1;
    shape.stride = shape.channels;
    return shape;
}

/* Part k of a merged concatenation: its convolution. */
static inline const mmebm_layer *merged_part(const mmebm_graph *graph, int32_t l, uint32_t k)
{
    return &graph->layers[layer_input(graph, l, k)];
}

static inline int32_t padded_to_lanes(int32_t channels)
{
    return (channels + LANES - 1) / LANES * LANES;
}

/* Type in which a layer's values are stored. */
int32_t mmebm__cuda_value_type(const mmebm_plan *plan, int32_t l);
/* Whether the tensor cores need an aligned bf16 copy of a product's source. */
int mmebm__cuda_needs_copy(const mmebm_plan *plan, int32_t product);
/* Gives everything its place, from `memory` on (NULL: only to measure); returns the size, SIZE_MAX if it overflows.
 * plan->wanted marks what a run may want. */
size_t mmebm__cuda_lay_out(mmebm_plan *plan, const mmebm_plan_spec *spec, char *memory);

/* Marks layers above wanted inputs and, if asked, above weights: wanted [layer_count] holds the inputs' marks. */
void mmebm__cuda_mark_wanted(const mmebm_graph *graph, int weight_gradient, unsigned char *wanted);

#endif /* MMEBM_CUDA_PLAN_H */
