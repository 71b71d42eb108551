/* SPDX-License-Identifier: Apache-2.0
 *
 * See cpu_tiles.h. An image is copied into a frame: lines of `pitch` pixels, each with as many zeros in front as the
 * kernel reaches to one side, which end the line before too, and lines of zeros above and below. There the inputs of a
 * result that lie in one line of the kernel are neighbours, kw * channels numbers, and those of the next pixel begin
 * one pixel later: 16 pixels of 32 such numbers are a tile as they lie. Places between lines are computed and not kept.
 * Where the numbers of a line of the kernel are no multiple of 32, the last tile has some of the pixel behind, times 0.
 *
 * Resampled, a large image is four small ones, its phases (y % 2, x % 2), and each pair of a phase and a pixel of the
 * low resolution meets in 2 x 2 taps. Towards the low resolution a sum goes over four frames, one of each phase;
 * towards the high one there is one frame and four sums with weights of their own.
 *
 * Six tiles of sums share a tile of weights: then the weights, which do not fit the first-level cache, are read from
 * the second at a twelfth of the rate at which multiplications could.
 */
#include "cpu_tiles.h"

#include "cpu_tile_unit.h"

enum {
    SUM_TILES = 6,
    LEAST_CHANNELS = 8, /* of either side: below, most of a tile is zeros */
    LONGEST_KERNEL = 7,
    PHASES = 4
};

typedef struct frame {
    int64_t height, width, pitch;   /* results of a phase, and pixels from line to line */
    int64_t places, tiles;          /* results with what lies between lines; tiles of these */
    size_t pixel, line, size;       /* bytes; size: of one frame */
    int64_t lines, taps, blocks;    /* of the kernel, for each source phase; its taps in a line; tiles of these */
    int64_t sources, targets;       /* phases: 1 or 4 */
    int64_t pad[2];                 /* zeros above and in front */
} frame;

/* Resampling towards the low resolution. */
static int goes_down(const cpu_op_spec *conv, uint32_t flipped)
{
    return (conv->resample == CPU_POOLED) != (flipped != 0);
}

static frame frame_of(const cpu_op_spec *conv, uint32_t flipped)
{
    const int phased = conv->resample != 0, down = phased && goes_down(conv, flipped);
    const int64_t *size = down ? conv->out : conv->in;
    frame f = {.height = size[0], .width = size[1]};
    f.sources = down ? PHASES : 1;
    f.targets = phased && !down ? PHASES : 1;
    f.lines = phased ? 2 : conv->kernel[0];
    f.taps = phased ? 2 : conv->kernel[1];
    for (int i = 0; i < 2; ++i) f.pad[i] = phased ? !down : conv->padding[i];
    f.pitch = f.width + f.taps / 2;
    f.places = f.height * f.pitch;
    f.tiles = (f.places + TILE_ROWS - 1) / TILE_ROWS;
    f.blocks = (f.taps * conv->in_channels + TILE_NUMBERS - 1) / TILE_NUMBERS;
    f.pixel = (size_t)conv->in_channels * sizeof(uint16_t);
    f.line = (size_t)f.pitch * f.pixel;
    /* the last tile's last place reads from its pixel on, in the kernel's last line and the last phase's place */
    const size_t read = ((size_t)f.tiles * TILE_ROWS - 1) * f.pixel + (size_t)f.blocks * TILE_ROW_BYTES;
    f.size = (size_t)(f.lines - 1) * f.line + read + (f.targets > 1 ? f.line + f.pixel : 0);
    return f;
}

static int64_t slabs_of(const cpu_op_spec *conv)
{
    return (conv->out_channels + TILE_ROWS - 1) / TILE_ROWS;
}

int mmebm__cpu_tiles_offered(void)
{
    return cpu_tiles_offered();
}

int mmebm__cpu_tiles_suit(const cpu_op_spec *conv)
{
    if (conv->kind != CPU_CONV || !conv->bf16) return 0;
    for (int i = 0; i < 2; ++i)
        if (conv->stride[i] != 1 || conv->kernel[i] > LONGEST_KERNEL || 2 * conv->padding[i] + 1 != conv->kernel[i])
            return 0;
    return conv->in_channels >= LEAST_CHANNELS && conv->out_channels >= LEAST_CHANNELS && mmebm__cpu_tiles_offered();
}

/* Tiles of weights of one slab, for one target phase. */
static int64_t slab_tiles(const frame *f)
{
    return f->sources * f->lines * f->blocks;
}

size_t mmebm__cpu_tiles_weight_bytes(const cpu_op_spec *conv)
{
    const frame f = frame_of(conv, 0); /* flipped or not, there are four phases */
    return (size_t)(f.targets * slabs_of(conv) * slab_tiles(&f)) * TILE_BYTES;
}

size_t mmebm__cpu_tiles_scratch(const cpu_op_spec *conv, uint32_t flipped)
{
    const frame f = frame_of(conv, flipped);
    return SUM_TILES * TILE_BYTES + (size_t)f.sources * f.size;
}

/* ---- weights: [target phase, slab of 16 out, source phase, line, block of 32 factors, pair of factors, out, 2] */

/* How much of the kernel's line t a phase has in its line v, counted as the high resolution meets the low one: phase 0
 * meets the pixels before and at its own, phase 1 those at and after. */
static float share_of_line(uint32_t resample, int64_t phase, int64_t v, int64_t t)
{
    if (resample == CPU_DOUBLED) return (phase + t + 1) / 2 - phase == v ? 1.0f : 0.0f;
    const int64_t a = 3 - phase - 2 * v; /* a mean of two results is a kernel of four lines */
    return t == a || t == a - 1 ? 0.5f : 0.0f;
}

/* Taps of the layer's kernel that make up tap (v, u), of a phase if the convolution is resampled, and their shares. */
typedef struct tap_mix {
    int64_t count, tap[LONGEST_KERNEL * LONGEST_KERNEL];
    float share[LONGEST_KERNEL * LONGEST_KERNEL];
} tap_mix;

static tap_mix mix_of(const cpu_op_spec *conv, uint32_t flipped, int64_t phase, int64_t v, int64_t u)
{
    const int64_t height = conv->kernel[0], width = conv->kernel[1], tap = v * width + u;
    tap_mix mix = {.count = 1, .tap = {flipped ? height * width - 1 - tap : tap}, .share = {1.0f}};
    if (!conv->resample) return mix;
    const int down = goes_down(conv, flipped);
    mix.count = 0;
    for (int64_t t = 0; t < height * width; ++t) {
        mix.tap[mix.count] = t;
        mix.share[mix.count] = share_of_line(conv->resample, phase / 2, down ? 1 - v : v, t / width) *
                               share_of_line(conv->resample, phase % 2, down ? 1 - u : u, t % width);
        mix.count += mix.share[mix.count] != 0.0f;
    }
    return mix;
}

/* Where a layer's weights lie: floats from one result channel, tap, source channel of the convolution to the next. */
typedef struct weight_steps {
    int64_t out, tap, in;
} weight_steps;

static weight_steps steps_of(const cpu_op_spec *conv, uint32_t flipped)
{
    const int64_t taps = conv->kernel[0] * conv->kernel[1];
    const weight_steps plain = {taps * conv->in_channels, conv->in_channels, 1};
    const weight_steps turned = {1, conv->out_channels, taps * conv->out_channels};
    return flipped ? turned : plain;
}

/* A factor's weights to `channels` results. out_step: a constant where this is inlined, if it is 1. */
CPU_INLINE void mix_weights(const tap_mix *mix, const float *plain, int64_t tap_step, int64_t out_step,
                            int64_t channels, float *to)
{
    for (int64_t n = 0; n < mix->count; ++n)
        for (int64_t o = 0; o < channels; ++o)
            to[o] += mix->share[n] * plain[mix->tap[n] * tap_step + o * out_step];
}

/* `count` factors of a line from `first` on, by a slab's channels. mixes: by tap of the line. */
CPU_CLONES static void load_tile(const cpu_op_spec *conv, const weight_steps *steps, const tap_mix *mixes,
                                 int64_t first, int64_t count, int64_t channels, const float *plain, uint16_t *tile)
{
    float numbers[TILE_NUMBERS][TILE_ROWS] = {{0.0f}};
    for (int64_t k = 0; k < count; ++k) {
        const tap_mix *mix = &mixes[(first + k) / conv->in_channels];
        const float *factor = plain + (first + k) % conv->in_channels * steps->in;
        if (steps->out == 1)
            mix_weights(mix, factor, steps->tap, 1, channels, numbers[k]);
        else
            mix_weights(mix, factor, steps->tap, steps->out, channels, numbers[k]);
    }
    for (int64_t pair = 0; pair < TILE_ROWS; ++pair)
        for (int64_t o = 0; o < TILE_ROWS; ++o)
            for (int64_t e = 0; e < 2; ++e) *tile++ = cpu_store_bf16(numbers[2 * pair + e][o]);
}

void mmebm__cpu_tiles_load(const cpu_op_spec *conv, uint32_t flipped, const float *plain, uint16_t *packed)
{
    const frame f = frame_of(conv, flipped);
    const weight_steps steps = steps_of(conv, flipped);
    const int64_t slabs = slabs_of(conv), lines = f.sources * f.lines, factors = f.taps * conv->in_channels;
    for (int64_t line = 0; line < f.targets * lines; ++line) {
        const int64_t phase = line / f.lines, target = line / lines; /* a source phase, if there are several */
        tap_mix mixes[LONGEST_KERNEL];
        for (int64_t u = 0; u < f.taps; ++u) mixes[u] = mix_of(conv, flipped, phase, line % f.lines, u);
        for (int64_t tile = 0; tile < slabs * f.blocks; ++tile) {
            const int64_t slab = tile / f.blocks, first = tile % f.blocks * TILE_NUMBERS, left = factors - first;
            const int64_t channels = conv->out_channels - slab * TILE_ROWS;
            const int64_t place = ((target * slabs + slab) * lines + line % lines) * f.blocks + tile % f.blocks;
            load_tile(conv, &steps, mixes, first, left < TILE_NUMBERS ? left : TILE_NUMBERS,
                      channels < TILE_ROWS ? channels : TILE_ROWS, plain + slab * TILE_ROWS * steps.out,
                      packed + place * (TILE_BYTES / (int64_t)sizeof *packed));
        }
    }
}

/* ---- sums */

/* From pixels `step` bytes apart, lines `line`. (top, front): the place of the first; around all are zeros. */
static void fill_frame(const frame *f, int64_t top, int64_t front, const char *from, size_t step, size_t line, char *to)
{
    const size_t width = (size_t)f->width * f->pixel, between = f->line - width;
    const char *end = to + f->size;
    const size_t start = (size_t)top * f->line + (size_t)front * f->pixel;
    memset(to, 0, start);
    to += start;
    for (int64_t y = 0; y < f->height; ++y, from += line) {
        if (step == f->pixel)
            memcpy(to, from, width);
        else
            for (int64_t x = 0; x < f->width; ++x)
                memcpy(to + (size_t)x * f->pixel, from + (size_t)x * step, f->pixel);
        to += width;
        const size_t zeros = y + 1 < f->height ? between : (size_t)(end - to);
        memset(to, 0, zeros);
        to += zeros;
    }
}

/* Of a phase 1 the zeros are in front, since it meets the pixel before. */
static void fill_frames(const frame *f, const uint16_t *image, char *frames)
{
    const char *pixels = (const char *)image;
    if (f->sources == 1) fill_frame(f, f->pad[0], f->pad[1], pixels, f->pixel, (size_t)f->width * f->pixel, frames);
    for (int64_t phase = 0; f->sources > 1 && phase < PHASES; ++phase, frames += f->size) {
        const int64_t below = phase / 2, behind = phase % 2;
        const size_t first = (size_t)(below * 2 * f->width + behind) * f->pixel;
        fill_frame(f, below, behind, pixels + first, 2 * f->pixel, 4 * (size_t)f->width * f->pixel, frames);
    }
}

#define MULTIPLY_TILE(t)                                                                                               \
    if (count > t) {                                                                                                   \
        TILE_LOAD(7, from + t * TILE_ROWS * f->pixel, f->pixel);                                                       \
        TILE_MULTIPLY(t, 7, 6);                                                                                        \
    }
#define STORE_TILE(t)                                                                                                  \
    if (count > t) TILE_STORE(t, (char *)sums + t * TILE_BYTES, TILE_ROW_BYTES)

/* `count` tiles of places by one slab of channels. place: the first one's first factor, in the first frame. */
TILE_CODE static void multiply(const frame *f, const char *place, const char *weights, int64_t count, float *sums)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    for (int64_t n = 0; n < f->sources * f->lines; ++n) {
        const char *from = place + (size_t)(n / f->lines) * f->size + (size_t)(n % f->lines) * f->line;
        for (int64_t b = 0; b < f->blocks; ++b, from += TILE_ROW_BYTES, weights += TILE_BYTES) {
            TILE_LOAD(6, weights, TILE_ROW_BYTES);
            MULTIPLY_TILE(0)
            MULTIPLY_TILE(1)
            MULTIPLY_TILE(2)
            MULTIPLY_TILE(3)
            MULTIPLY_TILE(4)
            MULTIPLY_TILE(5)
        }
    }
    STORE_TILE(0);
    STORE_TILE(1);
    STORE_TILE(2);
    STORE_TILE(3);
    STORE_TILE(4);
    STORE_TILE(5);
}

/* ---- from sums to results */

/* Sixteen channels; alignment of one number, as rows of channels have no other. */
typedef float lanes __attribute__((vector_size(TILE_ROWS * sizeof(float)), aligned(sizeof(float))));
typedef uint32_t lane_bits __attribute__((vector_size(TILE_ROWS * sizeof(uint32_t)), aligned(sizeof(uint32_t))));
typedef uint16_t halves __attribute__((vector_size(TILE_ROWS * sizeof(uint16_t)), aligned(sizeof(uint16_t))));

/* What a slab's results become, and where. Constants wherever the first four are inlined. */
typedef struct finish_spec {
    int add, activate, bf16;
    int64_t channels;
    float slope;
    uint32_t sloped; /* all bits, or none where the slope is 0: then infinity becomes 0 too */
    lanes bias;
} finish_spec;

/* cpu_store_bf16 of each. */
CPU_INLINE void round_lanes(const lanes *value, halves *to)
{
    const lane_bits bits = (lane_bits)*value, rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const lane_bits nan = (lane_bits)(*value != *value);
    *to = __builtin_convertvector(((nan & (bits | 0x400000u)) | (~nan & rounded)) >> 16, halves);
}

/* One result's channels of a slab. */
CPU_INLINE void finish(const finish_spec *s, const float *sums, void *to)
{
    const size_t size = (size_t)s->channels * mmebm__cpu_element_size((uint32_t)s->bf16);
    lanes value = *(const lanes *)sums + s->bias, old = {0.0f};
    halves rounded = {0};
    if (s->add) {
        memcpy(s->bf16 ? (void *)&rounded : (void *)&old, to, size);
        if (s->bf16) old = (lanes)(__builtin_convertvector(rounded, lane_bits) << 16);
        value += old;
    }
    if (s->activate) {
        const lane_bits below = (lane_bits)(value <= 0.0f);
        value = (lanes)((below & s->sloped & (lane_bits)(value * s->slope)) | (~below & (lane_bits)value));
    }
    if (s->bf16) round_lanes(&value, &rounded);
    memcpy(to, s->bf16 ? (const void *)&rounded : (const void *)&value, size);
}

/* `count` places from `first` on. pixel, line: bytes from a result to the next, and from line to line. */
CPU_INLINE void finish_places(const finish_spec *s, const frame *f, int64_t first, int64_t count, size_t pixel,
                              size_t line, const float *sums, char *target)
{
    int64_t y = first / f->pitch, x = first % f->pitch;
    for (int64_t p = 0; p < count; ++p, sums += TILE_ROWS) {
        if (x < f->width) finish(s, sums, target + (size_t)y * line + (size_t)x * pixel);
        if (++x < f->pitch) continue;
        x = 0;
        ++y;
    }
}

CPU_CLONES static void finish_tiles(const cpu_op_spec *conv, const frame *f, int64_t first, int64_t count,
                                    int64_t channels, const float *sums, const float *bias, char *target)
{
    const size_t number = mmebm__cpu_element_size(conv->target_bf16), step = f->targets > 1 ? 2 : 1;
    const size_t pixel = step * (size_t)conv->out_channels * number, line = step * (size_t)f->width * pixel;
    const uint32_t sloped = conv->slope != 0.0f ? ~0u : 0u;
    finish_spec any = {conv->add != 0, conv->activation != 0, conv->target_bf16 != 0, channels, conv->slope, sloped,
                       {0.0f}};
    if (conv->bias) memcpy(&any.bias, bias, (size_t)channels * sizeof *bias);
    const finish_spec plain = {0, 0, 1, TILE_ROWS, 0.0f, 0, any.bias}, added = {1, 0, 1, TILE_ROWS, 0.0f, 0, any.bias};
    const finish_spec activated = {0, 1, 1, TILE_ROWS, conv->slope, sloped, any.bias};
    if (channels < TILE_ROWS || !any.bf16 || (any.add && any.activate))
        finish_places(&any, f, first, count, pixel, line, sums, target);
    else if (any.add)
        finish_places(&added, f, first, count, pixel, line, sums, target);
    else if (any.activate)
        finish_places(&activated, f, first, count, pixel, line, sums, target);
    else
        finish_places(&plain, f, first, count, pixel, line, sums, target);
}

/* ---- runs */

/* One target phase of an image in its frame: all channels of one block of places after the other, while its inputs are
 * at hand. */
static void run_phase(const cpu_op_spec *conv, const frame *f, const char *inputs, const char *packed,
                      const float *bias, char *target, float *sums)
{
    const int64_t blocks = (f->tiles + SUM_TILES - 1) / SUM_TILES, slab = slab_tiles(f) * TILE_BYTES;
    const size_t number = mmebm__cpu_element_size(conv->target_bf16);
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t tile = f->tiles * b / blocks, tiles = f->tiles * (b + 1) / blocks - tile;
        const int64_t first = tile * TILE_ROWS, left = f->places - first;
        const int64_t count = left < tiles * TILE_ROWS ? left : tiles * TILE_ROWS;
        const char *weights = packed;
        for (int64_t c = 0; c < conv->out_channels; c += TILE_ROWS, weights += slab) {
            const int64_t channels = conv->out_channels - c < TILE_ROWS ? conv->out_channels - c : TILE_ROWS;
            multiply(f, inputs + (size_t)first * f->pixel, weights, tiles, sums);
            finish_tiles(conv, f, first, count, channels, sums, conv->bias ? bias + c : NULL,
                         target + (size_t)c * number);
        }
    }
}

void mmebm__cpu_tiles_run(const cpu_op_spec *conv, uint32_t flipped, const uint16_t *source, const uint16_t *packed,
                          const float *bias, void *target, void *scratch)
{
    const frame f = frame_of(conv, flipped);
    const int64_t in = conv->in[0] * conv->in[1] * conv->in_channels;
    const size_t pixel = (size_t)conv->out_channels * mmebm__cpu_element_size(conv->target_bf16);
    const size_t out = (size_t)(conv->out[0] * conv->out[1]) * pixel;
    const int64_t phase_weights = slabs_of(conv) * slab_tiles(&f) * TILE_BYTES;
    float *sums = scratch;
    char *inputs = (char *)scratch + SUM_TILES * TILE_BYTES;
    TILES_BEGIN();
    for (int64_t r = 0; r < conv->rows; ++r) {
        fill_frames(&f, source + r * in, inputs);
        for (int64_t phase = 0; phase < f.targets; ++phase) {
            const int64_t y = phase / 2, x = phase % 2; /* of a target, and of its inputs in the frame */
            run_phase(conv, &f, inputs + (size_t)y * f.line + (size_t)x * f.pixel,
                      (const char *)packed + phase * phase_weights, bias,
                      (char *)target + (size_t)r * out + (size_t)(y * 2 * f.width + x) * pixel, sums);
        }
    }
    TILES_END();
}
