/* SPDX-License-Identifier: Apache-2.0
 *
 * libmmebm: multimodal energy-based models, embeddable.
 *
 * From tuples of modalities x = (x_1, ..., x_M) the library learns, together:
 *   U(x)              one joint energy, low = likely;  pi(x) ~ exp(-U(x) / T)            Eqn 1
 *   p(x_i | z)        one shared-latent generator, a decoder for each modality          Eqn 4
 *   q(z | x)          one joint inference model, a mixture of one expert per modality   Eqn 5
 * by Algorithm 1 of Cui, Lao, Yu: "Learning Multimodal Energy-Based Model with Multimodal
 * Variational Auto-Encoder via MCMC Revision". Equation numbers below are that paper's.
 *
 * Contents: 1 versions · 2 statuses · 3 context · 4 views · 5 networks · 6 models
 *           7 chains and samplers · 8 training
 *
 * Rules that hold for every call
 * - Shapes. Tensors are dense, row-major, 32-bit floats. The first axis counts tuples (n). Images are
 *   channels last: [n, height, width, channels], as image decoders deliver them. Shapes written
 *   without n, as in mmebm_network_input(), are those of one tuple.
 * - Any n >= 1 is accepted wherever n appears; the library splits it as it needs. Results do not
 *   depend on how calls, batches or threads split the work (docs/repeatability.md).
 * - Errors. A call that fails returns a negative status, leaves its outputs unspecified and every
 *   object usable; mmebm_last_error() then says in one sentence what was found and what was wanted.
 *   Nothing prints, aborts or exits.
 * - Options. `struct_size` comes first and is set by the matching _init macro together with all
 *   defaults. Options, names and arrays are copied: they may be dropped when the call returns.
 * - Ownership. Objects are destroyed by the matching _destroy, which takes the address of the handle,
 *   accepts NULL and writes NULL. Children keep what they need of their parents alive, so any order
 *   of destruction is fine.
 * - Threads. A context and all that was made from it belong to one thread at a time. Two contexts
 *   share nothing. Each function's thread rule is this one unless it says otherwise.
 */
#ifndef MMEBM_H
#define MMEBM_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(MMEBM_STATIC)
#define MMEBM_API
#elif defined(MMEBM_BUILD)
#define MMEBM_API __declspec(dllexport)
#else
#define MMEBM_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define MMEBM_API __attribute__((visibility("default")))
#else
#define MMEBM_API
#endif

#if defined(__GNUC__)
#define MMEBM_CHECKED __attribute__((warn_unused_result))
#else
#define MMEBM_CHECKED
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1 versions ---------------------------------------------------------------------------- */

#define MMEBM_VERSION_MAJOR 0
#define MMEBM_VERSION_MINOR 1
#define MMEBM_VERSION_PATCH 0
#define MMEBM_VERSION_AT_LEAST(a, b, c)                                                            \
    (MMEBM_VERSION_MAJOR > (a) || (MMEBM_VERSION_MAJOR == (a) &&                                   \
        (MMEBM_VERSION_MINOR > (b) || (MMEBM_VERSION_MINOR == (b) && MMEBM_VERSION_PATCH >= (c)))))

/* Version of the library that runs, "major.minor.patch". Any thread. */
MMEBM_API const char *mmebm_version(void);

/* ---- 2 statuses ---------------------------------------------------------------------------- */

/* name, number, meaning. Numbers are never reused. docs/errors.md is this list with examples. */
#define MMEBM_STATUS_LIST(X)                                                                       \
    X(OK, 0, "success")                                                                            \
    X(E_ARGUMENT, -1, "an argument is NULL, out of range or not finite")                           \
    X(E_SHAPE, -2, "a view or a network has another shape than wanted")                            \
    X(E_DTYPE, -3, "a view or a stored tensor has another element type than wanted")               \
    X(E_STRUCT_SIZE, -4, "an options struct has an impossible struct_size; call its _init macro")  \
    X(E_UNKNOWN_OPTION, -5, "an option was set that this version of the library does not know")    \
    X(E_MEMORY, -6, "memory could not be had")                                                     \
    X(E_BACKEND, -7, "a backend is missing or does not fit this library")                          \
    X(E_DEVICE, -8, "a device or one of its libraries failed")                                     \
    X(E_IO, -9, "a file could not be read or written")                                             \
    X(E_FORMAT, -10, "a file is damaged or not of the expected kind")                              \
    X(E_VERSION, -11, "a file was written by a newer, incompatible library")                       \
    X(E_UNSUPPORTED, -12, "a valid request that this backend or model does not offer")             \
    X(E_DIVERGED, -13, "training or a chain diverged, and the guard could not recover it")         \
    X(E_STOPPED, -14, "a callback asked to stop")                                                  \
    X(E_STATE, -15, "calls came in the wrong order")                                               \
    X(E_NAME, -16, "no preset, tensor, diagnostic or backend has that name")

typedef enum mmebm_status {
#define MMEBM_STATUS_ENUM(name, number, text) MMEBM_##name = number,
    MMEBM_STATUS_LIST(MMEBM_STATUS_ENUM)
#undef MMEBM_STATUS_ENUM
    MMEBM_STATUS_MAX_ = 0x7fffffff /* keeps the enum at 4 bytes */
} mmebm_status;

/* "MMEBM_E_SHAPE" and the like; "MMEBM_UNKNOWN" for a number that is no status. Any thread. */
MMEBM_API const char *mmebm_status_name(mmebm_status status);

/* ---- 3 context ----------------------------------------------------------------------------- */

typedef struct mmebm_context mmebm_context;

enum { MMEBM_LOG_ERROR = 1, MMEBM_LOG_WARNING = 2, MMEBM_LOG_INFO = 3, MMEBM_LOG_DEBUG = 4 };

typedef struct mmebm_context_options {
    uint32_t struct_size;
    uint32_t n_threads;      /* CPU worker threads of this context; 0 = one per usable core */
    const char *backend;     /* "auto" (NULL means it), "reference", "cpu", "cuda", "cuda:1" (device number); "auto"
                                takes the fastest that opens and logs which and why; any other name that fails is an
                                error */
    const char *backend_dir; /* folder of backend modules; NULL = MMEBM_BACKEND_DIR (ignored for
                                set-uid programs), then the installed folder */
    /* Both or neither. allocate returns memory aligned to `alignment` (a power of two) or NULL. They are
     * called from the thread that calls the library. What oneDNN allocates for itself is not routed here. */
    void *(*allocate)(void *user, size_t size, size_t alignment);
    void (*release)(void *user, void *memory, size_t size);
    void *allocator_user;
    /* Receives one line without newline; silent when NULL. Must not call the library. */
    void (*log)(void *user, int32_t level, const char *line);
    void *log_user;
    int32_t log_level; /* lines above this level are not even formatted; default MMEBM_LOG_WARNING */
    uint32_t reserved; /* must be 0 */
    /* cuda: a cudaStream_t of the caller's, on which all work queues and which must outlive the context and all that is
     * made from it; NULL = one of its own. Other backends: must be NULL ("auto" then means cuda or none). */
    void *stream;
} mmebm_context_options;

MMEBM_API MMEBM_CHECKED mmebm_status mmebm_context_options_init_sized(mmebm_context_options *options, size_t size);
#define mmebm_context_options_init(options) mmebm_context_options_init_sized((options), sizeof *(options))

/* Opens a backend. options NULL = all defaults. On failure the sentence goes to message (at most
 * message_size bytes with the final 0; NULL is fine) since there is no context to ask yet. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_context_create(const mmebm_context_options *options, mmebm_context **context,
                                                         char *message, size_t message_size);
MMEBM_API void mmebm_context_destroy(mmebm_context **context);

/* The sentence of the last failed call on this context or anything made from it; "" after a success.
 * Never NULL. Valid until the next call on the context. */
MMEBM_API const char *mmebm_last_error(const mmebm_context *context);

/* The backend in use, "reference", "cpu" or "cuda", and a line about it ("oneDNN 2.6.3, 2 threads, avx512_core"). */
MMEBM_API const char *mmebm_context_backend(const mmebm_context *context);
MMEBM_API const char *mmebm_context_device(const mmebm_context *context);

/* Bytes of host memory that the context and everything made from it hold now, and the most they ever held. Either may
 * be NULL. MMEBM_E_ARGUMENT without a context. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_context_memory(const mmebm_context *context, uint64_t *in_use,
                                                          uint64_t *peak);
/* The same of memory on the backend's device, 0 where that is host memory. What the driver keeps for itself (kernels,
 * recorded graphs) is not in it. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_context_device_memory(const mmebm_context *context, uint64_t *in_use,
                                                                uint64_t *peak);

/* How networks multiply. TF32 (f32 with products of 10-bit mantissas) is cuda's; other backends answer
 * MMEBM_E_UNSUPPORTED. */
enum { MMEBM_PRECISION_AUTO = 0, MMEBM_PRECISION_F32 = 1, MMEBM_PRECISION_BF16 = 2, MMEBM_PRECISION_TF32 = 3 };

/* The precision that MMEBM_PRECISION_AUTO means on this context: BF16 where the processor multiplies
 * bf16 matrices in hardware, else F32. States, energies, losses and master weights are f32 in all. */
MMEBM_API uint32_t mmebm_context_fast_precision(const mmebm_context *context);

/* Waits until all work of the context is done. Calls that write host memory have done so themselves; this is for views
 * in device memory whose readers do not use the context's stream. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_context_synchronize(mmebm_context *context);

/* ---- 4 views ------------------------------------------------------------------------------- */

enum { MMEBM_MAX_RANK = 6 };
enum { MMEBM_F32 = 1, MMEBM_BF16 = 2 };
enum { MMEBM_HOST = 0, MMEBM_DEVICE = 1 };

/* Borrowed memory with its shape; the library reads or writes `data` only during the call. Where a
 * function takes an array of views, all its entries have the same struct_size.
 * MMEBM_DEVICE: memory of the context's device (backend "cuda" only), wherever a call takes views. It is read and
 * written in the order of the context's stream (mmebm_context_options.stream), and the call may return before: it sees
 * what was queued there before it, and what is queued there afterwards sees its results and may reuse the memory. */
typedef struct mmebm_view {
    uint32_t struct_size;
    uint32_t dtype; /* MMEBM_F32 */
    void *data;
    uint32_t rank;
    uint32_t place;     /* MMEBM_HOST or MMEBM_DEVICE */
    int32_t device_id;  /* host: 0; device: its number, the context's */
    uint32_t reserved0; /* must be 0 */
    int64_t shape[MMEBM_MAX_RANK];
} mmebm_view;

/* A dense f32 host view. rank 0..MMEBM_MAX_RANK. Any thread. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_view_init_sized(mmebm_view *view, size_t size, void *data, uint32_t rank,
                                                          const int64_t *shape);
#define mmebm_view_init(view, data, rank, shape) mmebm_view_init_sized((view), sizeof *(view), (data), (rank), (shape))

/* ---- 5 networks ---------------------------------------------------------------------------- */

/* A static directed acyclic graph of layers with its weights. Build order: create, inputs and layers,
 * outputs, finish. Every builder call checks shapes at once and returns the new node. After finish the
 * graph is fixed; weights may still be read and written. A builder call that fails adds nothing. */
typedef struct mmebm_network mmebm_network;
typedef int32_t mmebm_node;

MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_create(mmebm_context *context, const char *name,
                                                         mmebm_network **network);
MMEBM_API void mmebm_network_destroy(mmebm_network **network);

/* shape: of one tuple, rank 1 [features] .. 3 [height, width, channels]. Names of networks, inputs, layers and outputs
 * are made of A-Z a-z 0-9 _ . - and may be NULL. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_input(mmebm_network *network, const char *name, uint32_t rank,
                                                        const int64_t *shape, mmebm_node *node);

typedef struct mmebm_conv2d_options {
    uint32_t struct_size;
    uint32_t bias;    /* 1 = with bias (default), 0 = without */
    const char *name; /* of its tensors, "<name>.weight" and "<name>.bias"; NULL = from the layer's number */
    int64_t out_channels;
    int64_t kernel[2], stride[2], padding[2]; /* height, width; defaults 3x3, 1, 1 */
    int64_t output_padding[2];                /* conv_transpose2d only; default 0 */
} mmebm_conv2d_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_conv2d_options_init_sized(mmebm_conv2d_options *options, size_t size);
#define mmebm_conv2d_options_init(options) mmebm_conv2d_options_init_sized((options), sizeof *(options))

/* [h, w, c] -> [(h + 2p - k) / s + 1, ..., out_channels], 0 <= p < k; weight [out, kh, kw, in]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_conv2d(mmebm_network *network, mmebm_node x,
                                                         const mmebm_conv2d_options *options, mmebm_node *node);
/* [h, w, c] -> [(h - 1) s - 2p + k + output_padding, ..., out_channels], output_padding < s;
 * weight [in, kh, kw, out]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_conv_transpose2d(mmebm_network *network, mmebm_node x,
                                                                   const mmebm_conv2d_options *options,
                                                                   mmebm_node *node);

typedef struct mmebm_linear_options {
    uint32_t struct_size;
    uint32_t bias;    /* 1 = with bias (default), 0 = without */
    const char *name; /* as in mmebm_conv2d_options */
    int64_t out_features;
    uint32_t flatten;  /* 1 (default): over all axes, result [out]; 0: over the last axis, [..., out] */
    uint32_t reserved; /* must be 0 */
} mmebm_linear_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_linear_options_init_sized(mmebm_linear_options *options, size_t size);
#define mmebm_linear_options_init(options) mmebm_linear_options_init_sized((options), sizeof *(options))

/* y = x W' + b; weight [out, in]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_linear(mmebm_network *network, mmebm_node x,
                                                         const mmebm_linear_options *options, mmebm_node *node);

enum {
    MMEBM_RELU = 1,
    MMEBM_LEAKY_RELU = 2, /* parameter = slope below zero, in (0, 1) */
    MMEBM_SILU = 3,
    MMEBM_SOFTPLUS = 4,
    MMEBM_TANH = 5,
    MMEBM_SIGMOID = 6
};
/* Element by element. parameter is read by MMEBM_LEAKY_RELU only. The gradient at a kink is that of the left side. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_activation(mmebm_network *network, mmebm_node x, uint32_t kind,
                                                             float parameter, mmebm_node *node);
/* Over the last axis. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_softmax(mmebm_network *network, mmebm_node x, mmebm_node *node);

/* Square windows; padded zeros count in the mean, as in PyTorch. 2 * padding <= kernel. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_avg_pool(mmebm_network *network, mmebm_node x, int64_t kernel,
                                                           int64_t stride, int64_t padding, mmebm_node *node);
/* [h, w, c] -> [c]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_global_avg_pool(mmebm_network *network, mmebm_node x,
                                                                  mmebm_node *node);
/* [h, w, c] -> [h factor, w factor, c]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_upsample_nearest(mmebm_network *network, mmebm_node x,
                                                                   int64_t factor, mmebm_node *node);
/* alpha a + beta b, equal shapes. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_add(mmebm_network *network, mmebm_node a, float alpha, mmebm_node b,
                                                      float beta, mmebm_node *node);
/* Along the last axis; all other axes equal. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_concat(mmebm_network *network, uint32_t count,
                                                         const mmebm_node *nodes, mmebm_node *node);
/* Same number of elements, same order in memory. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_reshape(mmebm_network *network, mmebm_node x, uint32_t rank,
                                                          const int64_t *shape, mmebm_node *node);
/* gamma (x - mean) / sqrt(variance + epsilon) + beta over the last axis, with the stored running mean and
 * variance: tuples never influence each other (ruling B12). gamma and beta are trained; the trainer moves the
 * running statistics of the networks towards those of its batches. momentum in (0, 1]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_batch_norm(mmebm_network *network, mmebm_node x, float epsilon,
                                                             float momentum, mmebm_node *node);

/* Declares x, a layer that is no output yet, as the next output. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_output(mmebm_network *network, mmebm_node x, const char *name);

enum {
    MMEBM_INIT_XAVIER_NORMAL = 1, /* weights N(0, 2 / (fan_in + fan_out)), biases 0 */
    MMEBM_INIT_PYTORCH = 2        /* weights and biases U(-1, 1) / sqrt(fan_in): PyTorch's default */
};
/* Ends building and draws the weights from seed. Wants at least one input and one output, and that every layer leads to
 * an output; an input need not. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_finish(mmebm_network *network, uint32_t initialiser, uint64_t seed);

/* Shape of one tuple at a node; shape takes MMEBM_MAX_RANK entries. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_node_shape(const mmebm_network *network, mmebm_node node,
                                                             uint32_t *rank, int64_t *shape);

/* Weights by number 0..count-1 and by name. Info: any output may be NULL; the name lives as long as the network. */
MMEBM_API uint32_t mmebm_network_tensor_count(const mmebm_network *network);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_tensor_info(const mmebm_network *network, uint32_t index,
                                                              const char **name, uint32_t *rank, int64_t *shape);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_get_tensor(const mmebm_network *network, const char *name,
                                                             mmebm_view *value);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_set_tensor(mmebm_network *network, const char *name,
                                                             const mmebm_view *value);

/* Runs a finished network: one view for each input and output in order of declaration, [n, ...]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_forward(mmebm_network *network, const mmebm_view *inputs,
                                                          mmebm_view *outputs);

typedef struct mmebm_save_options {
    uint32_t struct_size;
    uint32_t dtype; /* MMEBM_F32 (default) or MMEBM_BF16: how weights are stored */
    uint32_t gzip;  /* 1 = compressed; default 0, so that any safetensors reader can open it */
    uint32_t reserved;
} mmebm_save_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_save_options_init_sized(mmebm_save_options *options, size_t size);
#define mmebm_save_options_init(options) mmebm_save_options_init_sized((options), sizeof *(options))

/* A safetensors file that holds graph and weights (docs/file-format.md). Written to a temporary name beside
 * path, flushed to the device and renamed: path holds the old file or the new one, never half of one. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_save(const mmebm_network *network, const char *path,
                                                       const mmebm_save_options *options);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_network_load(mmebm_context *context, const char *path,
                                                       mmebm_network **network);

/* ---- 6 models ------------------------------------------------------------------------------ */

/* Modalities + energy, generator and inference networks + weights. */
typedef struct mmebm_model mmebm_model;

enum { MMEBM_MAX_MODALITIES = 16 };
enum { MMEBM_GAUSSIAN = 1, MMEBM_LAPLACE = 2, MMEBM_CATEGORICAL = 3 };

typedef struct mmebm_modality {
    uint32_t struct_size;
    uint32_t likelihood; /* MMEBM_GAUSSIAN (default): weight |x - mu|^2 / (2 scale^2);
                            MMEBM_LAPLACE: weight |x - mu|_1 / scale;
                            MMEBM_CATEGORICAL: -weight sum x log mu over the last axis, decoder ends in softmax */
    const char *name;    /* NULL = "x0", "x1", ... */
    uint32_t rank;
    uint32_t reserved; /* must be 0 */
    int64_t shape[MMEBM_MAX_RANK];
    float scale;              /* default sqrt(1/2): ruling B1 */
    float weight;             /* lambda, default 1 */
    float data_min, data_max; /* range of the data, default 0 and 1; stored, not enforced (ruling A13) */
} mmebm_modality;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_modality_init_sized(mmebm_modality *modality, size_t size);
#define mmebm_modality_init(modality) mmebm_modality_init_sized((modality), sizeof *(modality))

enum {
    MMEBM_SCALE_SOFTPLUS = 1, /* s = softplus(raw) + floor (default) */
    MMEBM_SCALE_EXP_HALF = 2, /* s = exp(raw / 2) + floor: raw is a log-variance */
    MMEBM_SCALE_SOFTMAX = 3   /* s = D softmax(raw) + floor, as MMVAE+ pairs with Laplace */
};

typedef struct mmebm_model_options {
    uint32_t struct_size;
    uint32_t n_modalities;            /* 1 .. MMEBM_MAX_MODALITIES */
    const mmebm_modality *modalities; /* n_modalities entries */
    uint32_t latent_size;             /* D */
    uint32_t prior;                   /* MMEBM_GAUSSIAN (default) or MMEBM_LAPLACE: p0(z), mean 0 */
    float prior_scale;                /* default 1 */
    uint32_t posterior;               /* MMEBM_GAUSSIAN (default) or MMEBM_LAPLACE: each expert of q */
    uint32_t posterior_scale;         /* MMEBM_SCALE_* : what the encoders' second output means (ruling C1) */
    float posterior_floor;            /* default 1e-6 (ruling C7) */
} mmebm_model_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_options_init_sized(mmebm_model_options *options, size_t size);
#define mmebm_model_options_init(options) mmebm_model_options_init_sized((options), sizeof *(options))

/* A model from finished networks, whose graphs and weights are copied:
 *   energy        inputs x_1..x_M in order, one output [1]: U
 *   decoders[i]   input [latent_size], one output of modality i's shape: the mean of p(x_i | z)
 *   encoders[i]   input of modality i's shape, two outputs [latent_size]: mean and raw scale of q_i(z | x_i)
 * Tensors are named "energy.<t>", "decoder<i>.<t>", "encoder<i>.<t>". */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_create(mmebm_context *context, const mmebm_model_options *options,
                                                       const mmebm_network *energy,
                                                       const mmebm_network *const *decoders,
                                                       const mmebm_network *const *encoders, mmebm_model **model);

typedef struct mmebm_preset_options {
    uint32_t struct_size;
    uint32_t n_modalities;  /* default 5 */
    uint32_t latent_size;   /* default 32 */
    uint32_t image_size;    /* images: height = width, a multiple of 4 from 8 on; default 28 */
    uint32_t channels;      /* images: of one image; default 3 */
    uint32_t nf;            /* images: decoders' and encoders' width (E14); default 64 */
    uint32_t nef;           /* images: energy's width (E9); default 128 */
    uint32_t stem_channels; /* images: c of each modality's first convolution (E8); default 16 */
    const int64_t *sizes;   /* mlp: n_modalities vector lengths */
    uint32_t hidden;        /* mlp: units of a hidden layer; polymnist-small: of the decoders'; default 128 */
    uint32_t n_hidden;      /* mlp: hidden layers of each network; default 2 */
    uint64_t seed;          /* of the initial weights; default 0 */
    float likelihood_scale; /* mmebm_modality.scale of every modality; default sqrt(1/2) */
    float posterior_floor;  /* as in mmebm_model_options; default 0.02, which trains (docs/training.md) */
} mmebm_preset_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_preset_options_init_sized(mmebm_preset_options *options, size_t size);
#define mmebm_preset_options_init(options) mmebm_preset_options_init_sized((options), sizeof *(options))

/* "polymnist": the paper's networks for equal images (Table 6, rulings E1-E9 and E14).
 * "polymnist-small": a fiftieth of the arithmetic, for training on a CPU: dense decoders, strided convolutions.
 * "mlp": vector modalities, SiLU networks. options NULL = defaults. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_create_preset(mmebm_context *context, const char *preset,
                                                              const mmebm_preset_options *options,
                                                              mmebm_model **model);
MMEBM_API void mmebm_model_destroy(mmebm_model **model);

MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_save(const mmebm_model *model, const char *path,
                                                     const mmebm_save_options *options);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_load(mmebm_context *context, const char *path, mmebm_model **model);

/* Questions. Names live as long as the model; outputs may be NULL. */
MMEBM_API uint32_t mmebm_model_modality_count(const mmebm_model *model);
MMEBM_API uint32_t mmebm_model_latent_size(const mmebm_model *model);
/* Fills *modality (struct_size set by the caller) as it was given to create. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_modality(const mmebm_model *model, uint32_t index,
                                                         mmebm_modality *modality);
/* Fills *options (struct_size set by the caller) as it was given to create: what a preset or a file has chosen.
 * options->modalities are the model's own and live as long as it, modalities[0].struct_size bytes apart. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_get_options(const mmebm_model *model, mmebm_model_options *options);
MMEBM_API uint32_t mmebm_model_tensor_count(const mmebm_model *model);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_tensor_info(const mmebm_model *model, uint32_t index,
                                                            const char **name, uint32_t *rank, int64_t *shape);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_get_tensor(const mmebm_model *model, const char *name,
                                                           mmebm_view *value);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_model_set_tensor(mmebm_model *model, const char *name,
                                                           const mmebm_view *value);

/* ---- 7 chains and samplers ----------------------------------------------------------------- */

enum { MMEBM_ULA = 1 /* unadjusted Langevin */, MMEBM_MALA = 2 /* Metropolis-adjusted */ };
enum { MMEBM_REDUCE_SUM = 1 /* EXACT: each chain targets Eqn 8 */, MMEBM_REDUCE_MEAN = 2 /* LISTING1: drift / M */ };
enum {
    MMEBM_START_SAMPLE = 1, /* a draw from an expert */
    MMEBM_START_MEAN = 2,   /* an expert's mean */
    MMEBM_START_AVERAGE = 3 /* the mean of q(z | x_O): the average of the observed experts' means */
};
enum { MMEBM_ALL_MODALITIES = 0 };

/* One struct for both chains. The update of a state v with energy E(v) is
 *     v <- v - (l^2 / 2) dE/dv + n xi,   xi ~ N(0, I)
 * with E = U (langevin_x, Eqn 3) or E = sum_{i in O} NLL_i(x_i | z) - log p0(z) (langevin_z, Eqns 8 and 17), to which
 * prior_temperature adds U(G(z)) / prior_temperature.
 * It is Langevin dynamics of step s = n^2 / 2 at temperature T = (n / l)^2 (ruling A2). */
typedef struct mmebm_langevin_options {
    uint32_t struct_size;
    uint32_t n_steps;          /* k; x: 30, z: 30 */
    float step_size;           /* l; x: 0.1, z: 0.1 */
    float noise_scale;         /* n; x: 0.001, z: 0.1; 0 is plain gradient descent; MALA needs n = l */
    const float *step_sizes;   /* x only: l of each modality, NULL = step_size for all */
    const float *noise_scales; /* x only: n of each modality, NULL = noise_scale for all */
    float drift_clamp;         /* bound of |l^2/2 dE/dv| for each element; 0 = none */
    float drift_norm_clip;     /* bound of the drift's Euclidean norm over a chain's state; 0 = none. Under MALA both
                                  bounds change what is proposed and not the target (Roberts and Tweedie 1996): far
                                  from it, where an unbounded drift overshoots, nothing would be accepted for long */
    uint32_t method;           /* MMEBM_ULA (default) or MMEBM_MALA */
    uint32_t reduction;        /* z: MMEBM_REDUCE_SUM (default) or _MEAN over the experts' chains (ruling B4) */
    uint64_t observed;         /* bit i = modality i is given. x: those are clamped, bit for bit, default none;
                                  z: the set O, MMEBM_ALL_MODALITIES (default) = all */
    uint64_t seed;             /* default 0 */
    uint64_t first_chain;      /* number of this call's first chain, for calls that share a seed; default 0 */
    float state_min, state_max; /* x: states are clamped into this range; both 0 (default) = not (ruling A7) */
    uint32_t trajectory_stride; /* steps between stored states, see mmebm_chain_record; default 1 */
    uint32_t reserved;          /* must be 0 */
    float prior_temperature;    /* z: > 0: p0 is tilted by the energy, exp(-U(G(z)) / prior_temperature) p0(z), towards
                                   latents whose tuples it finds likely; the lower, the more U counts. 0 (default) = p0
                                   as it is, as in the paper */
    uint32_t reserved1;         /* must be 0; fills the struct up to a multiple of 8 bytes */
} mmebm_langevin_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_langevin_x_options_init_sized(mmebm_langevin_options *options, size_t size);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_langevin_z_options_init_sized(mmebm_langevin_options *options, size_t size);
#define mmebm_langevin_x_options_init(options) mmebm_langevin_x_options_init_sized((options), sizeof *(options))
#define mmebm_langevin_z_options_init(options) mmebm_langevin_z_options_init_sized((options), sizeof *(options))

/* (l, n) <-> (s, T): s = n^2 / 2, T = (n / l)^2. l, n, s, T > 0 and finite. Any thread. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_step_from_scales(double step_size, double noise_scale, double *s, double *t);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_scales_from_step(double s, double t, double *step_size, double *noise_scale);

/* What a chain may report; any pointer may be NULL. c = number of chains of the call. */
typedef struct mmebm_chain_record {
    uint32_t struct_size;
    uint32_t reserved;         /* must be 0 */
    mmebm_view *trajectory;    /* x: M views [frames, n, ...]; z: one view [frames, c, D];
                                  frames = n_steps / trajectory_stride + 1, the first is the start */
    mmebm_view *energy;        /* [n_steps + 1, c]: E at every state, before step 1, 2, ... and at the end */
    mmebm_view *acceptance;    /* [c]: share of accepted moves (MALA; 1 under ULA) */
    float mean_acceptance;     /* out */
    float displacement;        /* out: mean over chains of |v_end - v_start|^2 */
} mmebm_chain_record;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_chain_record_init_sized(mmebm_chain_record *record, size_t size);
#define mmebm_chain_record_init(record) mmebm_chain_record_init_sized((record), sizeof *(record))

/* A plan for repeated work on one model: graphs compiled for a largest batch, workspace reserved; its calls take
 * neither host memory from the context's hooks nor device memory, except that chains of latents compile their energy:
 * langevin_z at the first call with a new observed set (mmebm_sampler_prepare() does so ahead), under a tilted prior
 * also at one whose prior_temperature is another than the set's last. The driver of "cuda" keeps memory of its own for
 * chains that it has seen twice. A sampler sees weight changes of the model at the next call. */
typedef struct mmebm_sampler mmebm_sampler;

typedef struct mmebm_sampler_options {
    uint32_t struct_size;
    uint32_t capacity;  /* tuples worked on at once, 1 .. 65536; larger calls loop; default 64 */
    uint32_t precision; /* MMEBM_PRECISION_*; default F32 */
    uint32_t reserved;  /* must be 0 */
} mmebm_sampler_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_options_init_sized(mmebm_sampler_options *options, size_t size);
#define mmebm_sampler_options_init(options) mmebm_sampler_options_init_sized((options), sizeof *(options))

MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_create(mmebm_model *model, const mmebm_sampler_options *options,
                                                         mmebm_sampler **sampler);
MMEBM_API void mmebm_sampler_destroy(mmebm_sampler **sampler);
/* Compiles langevin_z, without prior_temperature, for the set `observed` (MMEBM_ALL_MODALITIES = all), if that was not
 * done yet. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_prepare(mmebm_sampler *sampler, uint64_t observed);
/* Bytes the sampler holds. Calls without prior_temperature whose observed sets are prepared never take more. */
MMEBM_API uint64_t mmebm_sampler_workspace_size(const mmebm_sampler *sampler);

/* x below is an array of M views [n, shape of modality i], M = mmebm_model_modality_count(). */

/* u [n] <- U(x). */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_energy(mmebm_sampler *sampler, const mmebm_view *x, mmebm_view *u);
/* score: M views like x <- -dU/dx_i / T: the gradient of log pi (ruling A1). temperature > 0. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_score(mmebm_sampler *sampler, const mmebm_view *x,
                                                        float temperature, mmebm_view *score);
/* Expert i of q(z|x): mean and scale [n, D] each, from x_i [n, ...] alone (Eqn 5). */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_encode(mmebm_sampler *sampler, uint32_t modality,
                                                         const mmebm_view *x, mmebm_view *mean, mmebm_view *scale);
/* Draws [|O|, n, D] start states, one from each observed expert in order of modality (ruling F8).
 * observed 0 = all; start MMEBM_START_SAMPLE, _MEAN or _AVERAGE (then all are the same); views of unobserved modalities
 * are not read. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_encode_draw(mmebm_sampler *sampler, uint64_t observed,
                                                              uint32_t start, uint64_t seed, uint64_t first_chain,
                                                              const mmebm_view *x, mmebm_view *z);
/* x <- means of p(x_i | z); z [n, D]. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_generate(mmebm_sampler *sampler, const mmebm_view *z,
                                                           mmebm_view *x);
/* Revises x in place (Eqn 3). options NULL = defaults. record may be NULL. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_langevin_x(mmebm_sampler *sampler,
                                                             const mmebm_langevin_options *options, mmebm_view *x,
                                                             mmebm_chain_record *record);
/* Revises z in place given x_O (Eqns 8, 17). z [n, D], one chain a tuple, or [e, n, D], e chains a tuple;
 * chain e n + b is conditioned on tuple b. Views of unobserved modalities are not read. Under MALA step_size
 * is the proposal's l. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_langevin_z(mmebm_sampler *sampler,
                                                             const mmebm_langevin_options *options,
                                                             const mmebm_view *x, mmebm_view *z,
                                                             mmebm_chain_record *record);

/* A mixture of Gaussians with diagonal covariance over z: sum_k weights[k] N(means[k], diag(scales[k]^2)). Fitted after
 * training to draws from q(z | x) it may be taken in place of p0 when tuples are drawn (an "ex-post prior"). It is no
 * part of a model, and numbers from it belong beside those from p0, never in their place. The arrays are the
 * caller's. */
typedef struct mmebm_latent_mixture {
    uint32_t struct_size;
    uint32_t components;  /* K, 1 .. 4096; default 1 */
    uint32_t latent_size; /* D */
    uint32_t reserved;    /* must be 0 */
    float *weights;       /* [K], at least 0, of sum 1 */
    float *means;         /* [K, D] */
    float *scales;        /* [K, D], standard deviations, above 0 */
} mmebm_latent_mixture;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_latent_mixture_init_sized(mmebm_latent_mixture *mixture, size_t size);
#define mmebm_latent_mixture_init(mixture) mmebm_latent_mixture_init_sized((mixture), sizeof *(mixture))

typedef struct mmebm_latent_mixture_options {
    uint32_t struct_size;
    uint32_t max_steps; /* EM steps at most; default 200 */
    uint64_t seed;      /* of the start; default 0 */
    float tolerance;    /* ends when the mean log density rises by less; default 1e-4 */
    float scale_floor;  /* least standard deviation; default 0.01 */
} mmebm_latent_mixture_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_latent_mixture_options_init_sized(mmebm_latent_mixture_options *options,
                                                                            size_t size);
#define mmebm_latent_mixture_options_init(options)                                                 \
    mmebm_latent_mixture_options_init_sized((options), sizeof *(options))

/* Fills the mixture's arrays by EM from a k-means++ start on latents [n, D], n >= K; in double, on the calling thread;
 * the same bits for the same arguments. options NULL = defaults. mean_log_density of the latents; NULL is fine. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_latent_mixture_fit(mmebm_context *context,
                                                             const mmebm_latent_mixture_options *options,
                                                             const mmebm_view *latents,
                                                             const mmebm_latent_mixture *mixture,
                                                             double *mean_log_density);

/* Revises z [n, D] in place by the energy, seen through the decoders, with nothing given: langevin_z with
 *     E(z) = U(G(z)) / T - log p0(z),  T = options->prior_temperature > 0,
 * so that z are draws from the prior as the energy tilts it, and x = G(z) belong together more often than those of p0
 * do (measured in docs/training.md). Too low a T, and z run away to where the decoders have learnt nothing. options:
 * those of langevin_z (mmebm_langevin_z_options_init()), observed and reduction unset. record may be NULL; its energy
 * is E(z). */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_langevin_prior(mmebm_sampler *sampler,
                                                                 const mmebm_langevin_options *options,
                                                                 mmebm_view *z, mmebm_chain_record *record);

typedef struct mmebm_sample_options {
    uint32_t struct_size;
    uint32_t start;                           /* given: MMEBM_START_SAMPLE (default), _MEAN or _AVERAGE */
    uint64_t seed;                            /* default 0 */
    uint64_t first_chain;                     /* default 0 */
    uint64_t observed;                        /* given: bit i = x_i is given; at least one */
    const mmebm_langevin_options *langevin_z; /* given: refinement of z (ruling F11); sample: langevin_prior, with a
                                                 prior_temperature above 0; NULL = none */
    const mmebm_langevin_options *langevin_x; /* revision by the energy; NULL = none: generator means */
    const mmebm_latent_mixture *prior;        /* sample: in place of p0; NULL = p0. given: must be NULL */
    uint32_t all_experts;                     /* given, with langevin_z: 1 = a chain from each given modality's expert,
                                                 of which the one that ends at the lowest energy E(z) is kept; 0
                                                 (default) = one chain, from an expert drawn uniformly */
    uint32_t reserved;                        /* must be 0 */
    float guidance;     /* given: z starts at so many times what q gives, away from the prior's mean 0. Means of q are
                           averages over all that the given leaves open, nearer to 0 than any latent; what is decoded
                           from further out is sharper. 0 (default) = 1 = as q gives it */
    uint32_t reserved1; /* must be 0 */
} mmebm_sample_options;
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sample_options_init_sized(mmebm_sample_options *options, size_t size);
#define mmebm_sample_options_init(options) mmebm_sample_options_init_sized((options), sizeof *(options))

/* Coherent tuples: z ~ p0 (or options.prior), then langevin_prior if asked (p0 alone), x = generator means, then
 * langevin_x if asked. x: M views, written. Seeds, chain numbers and the observed set of the nested options are
 * replaced by those here. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_sample(mmebm_sampler *sampler, const mmebm_sample_options *options,
                                                         mmebm_view *x);
/* Fills in what is missing: one observed expert a tuple, drawn uniformly, gives z (ruling F8), or with
 * MMEBM_START_AVERAGE all of them: what they agree on stays, what one alone shows averages out; langevin_z on x_O if
 * asked (with options.all_experts from every expert, at |O| times the cost: chains from different experts often end in
 * different minima); the missing x_i = generator means; langevin_x with x_O clamped if asked (ruling F12). Observed
 * views are read, the others written. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sampler_sample_given(mmebm_sampler *sampler,
                                                               const mmebm_sample_options *options, mmebm_view *x);

/* The same without keeping a plan: each makes a sampler, calls it and destroys it. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_energy(mmebm_model *model, const mmebm_view *x, mmebm_view *u);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_score(mmebm_model *model, const mmebm_view *x, float temperature,
                                                mmebm_view *score);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_encode(mmebm_model *model, uint32_t modality, const mmebm_view *x,
                                                 mmebm_view *mean, mmebm_view *scale);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_generate(mmebm_model *model, const mmebm_view *z, mmebm_view *x);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_langevin_x(mmebm_model *model, const mmebm_langevin_options *options,
                                                     mmebm_view *x, mmebm_chain_record *record);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_langevin_z(mmebm_model *model, const mmebm_langevin_options *options,
                                                     const mmebm_view *x, mmebm_view *z, mmebm_chain_record *record);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sample(mmebm_model *model, const mmebm_sample_options *options,
                                                 mmebm_view *x);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_sample_given(mmebm_model *model, const mmebm_sample_options *options,
                                                       mmebm_view *x);

/* ---- 8 training ---------------------------------------------------------------------------- */

/* Algorithm 1: networks, optimiser moments, counters, chains' step size, divergence guard. */
typedef struct mmebm_trainer mmebm_trainer;

/* Parts of mmebm_trainer_options; these two never change their layout. */
typedef struct mmebm_adam_options {
    float rate, beta1, beta2, epsilon; /* rate 0: the network is not trained, and nothing is computed for it alone */
    float clip_norm;        /* bound of the gradient's Euclidean norm over the whole network; 0 = none */
    uint32_t spectral_norm; /* 1 = every weight matrix is divided by its largest singular value (ruling D10) */
} mmebm_adam_options;

/* As in mmebm_langevin_options, for the chains inside a step. */
typedef struct mmebm_training_chain {
    uint32_t n_steps, method, reduction;
    float step_size, noise_scale, drift_clamp, drift_norm_clip;
    uint32_t reserved; /* must be 0 */
} mmebm_training_chain;

typedef struct mmebm_trainer_options {
    uint32_t struct_size;
    uint32_t batch;     /* tuples of a step; fixed for the trainer's life */
    uint32_t precision; /* MMEBM_PRECISION_* of the networks; default F32 */
    uint32_t stratified; /* 1: one z chain for each expert (rulings B13, C4); 0: one expert drawn for each tuple */
    uint64_t seed;
    mmebm_training_chain langevin_x, langevin_z;
    float mala_target;               /* acceptance to which langevin_z's l is adapted under MALA; 0 = fixed */
    float mala_rate;                 /* l <- l exp(mala_rate (acceptance - mala_target)) after each step */
    float mala_min, mala_max;        /* bounds of l */
    mmebm_adam_options energy, generator, inference;
    float weight_reconstruction;     /* g_rec: Eqn 11's first term */
    float weight_synthesis;          /* g_smp: Eqn 11's second term */
    float weight_inference;          /* i_t: Eqn 12's first term */
    float weight_inference_revised;  /* i_f: Eqn 12's second term */
    float energy_penalty;            /* p in errE + p (mean U(x)^2 + mean U(x_rev)^2), before the division by T */
    float temperature;               /* T of errE / T; 0 = (n/l)^2 of langevin_x (ruling A3) */
    float data_noise;                /* std of noise added to the energy's positive samples (ruling A14) */
    float ema;                       /* decay of the weight averages; 0 = none */
    uint32_t schedule_steps;         /* cosine from 1 to schedule_end over this many steps; 0 = constant rates */
    float schedule_end;
    uint32_t guard_interval; /* steps between snapshots of a good state; 0 = no guard */
    uint32_t guard_tries;    /* rollbacks before MMEBM_E_DIVERGED */
    float guard_rate;        /* factor on all rates at a rollback; MMEBM_E_DIVERGED when all make less than 1e-3 */
    float guard_loss;        /* a step is bad if a loss or norm is not finite, or: reconstruction > guard_loss times its
                                running mean + 50 (from step guard_interval on), |dE| > guard_energy, latent norm >
                                guard_latent */
    float guard_energy;
    float guard_latent;
    uint32_t reserved;  /* must be 0 */
    uint32_t reserved1; /* must be 0 */
    float weight_mismatched; /* w in errE + w (mean U(x) - mean U(x_mis)) + p mean U(x_mis)^2, before the division by T:
                                modality i of x_mis is that of the tuple i rows on in the batch, so that U learns what
                                belongs together. 0 (default) = none, as in the paper; else batch must be at least 2 */
    float prior_temperature; /* T of the tilted prior: z_prior ~ p0 is moved by langevin_prior's steps on
                                U(G(z)) / T - log p0(z) before it is decoded, so that U learns from what
                                mmebm_sampler_langevin_prior() with this T and these steps makes of it. 0 (default): p0
                                as it is, as in the paper */
    mmebm_training_chain langevin_prior; /* only with prior_temperature; MMEBM_ULA; default 60 steps, l = n = 0.07 */
} mmebm_trainer_options;

/* "default": what trains (docs/training.md). "listing1": the paper's Listing 1 as printed (rulings' LISTING1);
 * "listing1-sn": that with spectral norm on the energy. Unknown names: MMEBM_E_NAME. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_options_init_sized(mmebm_trainer_options *options, size_t size,
                                                                     const char *preset);
#define mmebm_trainer_options_init(options, preset)                                                \
    mmebm_trainer_options_init_sized((options), sizeof *(options), (preset))

/* The trainer changes the weights of model, which it keeps alive. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_create(mmebm_model *model, const mmebm_trainer_options *options,
                                                         mmebm_trainer **trainer);
MMEBM_API void mmebm_trainer_destroy(mmebm_trainer **trainer);

/* One step of Algorithm 1 on x (M views [batch, ...]). A bad step is undone by the guard: weights go back to the
 * last good snapshot, rates fall, noise is drawn anew, diagnostic "rollbacks" counts it, and the call succeeds;
 * after guard_tries in a row without a new snapshot it returns MMEBM_E_DIVERGED with the model at that snapshot.
 * Data in host memory that is not finite is refused with MMEBM_E_ARGUMENT before anything changes; in device memory it
 * makes the step bad.
 * Backend "cuda" returns when the step is queued, while the one before it may still be under way. Results and the
 * guard's verdict are fetched by the next call of _diagnostic, _copy_average or _save, or by the next _step but one,
 * and that call returns the step's failure, if it failed; a step that began from a bad one's weights is undone with it.
 * Weights that are read or written through the model before may be those of a step that is then undone. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_step(mmebm_trainer *trainer, const mmebm_view *x);

/* Diagnostics of the last step, by number or by name; "step", "loss_generator", "loss_inference", "loss_energy",
 * "dE_raw", "acceptance", ... (docs/training.md lists them with formulas). "cuda" waits for that step. */
MMEBM_API uint32_t mmebm_trainer_diagnostic_count(void);
MMEBM_API const char *mmebm_trainer_diagnostic_name(uint32_t index);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_diagnostic(const mmebm_trainer *trainer, const char *name,
                                                             double *value);

/* Writes the averaged weights (options.ema) into another model of the same networks. MMEBM_E_STATE without ema. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_copy_average(const mmebm_trainer *trainer, mmebm_model *model);

/* Up to 64 KiB of the program's own that travel with the checkpoint, such as its place in the data. get: *size is
 * the room at data on entry and the stored size on return; data NULL asks for the size only. */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_set_user_state(mmebm_trainer *trainer, const void *data,
                                                                 size_t size);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_get_user_state(const mmebm_trainer *trainer, void *data,
                                                                 size_t *size);

/* Exact resume: N steps, save, load, M steps give the same bits as N + M steps on one backend. The file holds the
 * model, the options, all optimiser state and the user state; load makes the model too (destroy both). */
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_save(const mmebm_trainer *trainer, const char *path,
                                                       const mmebm_save_options *options);
MMEBM_API MMEBM_CHECKED mmebm_status mmebm_trainer_load(mmebm_context *context, const char *path, mmebm_model **model,
                                                       mmebm_trainer **trainer);

#ifdef __cplusplus
}
#endif
#endif /* MMEBM_H */
