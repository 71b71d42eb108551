/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of cpu_elementwise.c for one element type; included twice, with
 *   ELEMENT        the stored type
 *   LOAD, STORE    between it and float
 *   TYPED(name)    the function's name for this type
 * `add` is a constant in every inlined copy, so that no loop tests it.
 */

CPU_INLINE void TYPED(put)(uint32_t add, ELEMENT *to, float value)
{
    *to = STORE(add ? LOAD(*to) + value : value);
}

/* ---- activations */

CPU_INLINE void TYPED(activation_loop)(uint32_t kind, float slope, int64_t count, const ELEMENT *x, ELEMENT *y)
{
    for (int64_t i = 0; i < count; ++i) y[i] = STORE(activation_value(kind, slope, LOAD(x[i])));
}

CPU_CLONES static void TYPED(activation)(uint32_t kind, float slope, int64_t count, const void *x, void *y)
{
    switch (kind) {
    case MMEBM_RELU: TYPED(activation_loop)(MMEBM_RELU, slope, count, x, y); break;
    case MMEBM_LEAKY_RELU: TYPED(activation_loop)(MMEBM_LEAKY_RELU, slope, count, x, y); break;
    case MMEBM_SILU: TYPED(activation_loop)(MMEBM_SILU, slope, count, x, y); break;
    case MMEBM_SOFTPLUS: TYPED(activation_loop)(MMEBM_SOFTPLUS, slope, count, x, y); break;
    case MMEBM_TANH: TYPED(activation_loop)(MMEBM_TANH, slope, count, x, y); break;
    default: TYPED(activation_loop)(MMEBM_SIGMOID, slope, count, x, y); break;
    }
}

CPU_INLINE void TYPED(slope_loop)(uint32_t kind, float slope, uint32_t add, int64_t count, const ELEMENT *saved,
                                  const ELEMENT *by_y, ELEMENT *by_x)
{
    if (add)
        for (int64_t i = 0; i < count; ++i)
            TYPED(put)(1, &by_x[i], LOAD(by_y[i]) * activation_slope(kind, slope, LOAD(saved[i])));
    else
        for (int64_t i = 0; i < count; ++i)
            TYPED(put)(0, &by_x[i], LOAD(by_y[i]) * activation_slope(kind, slope, LOAD(saved[i])));
}

/* Takes or drops stored numbers as they are. */
CPU_INLINE void TYPED(relu_mask)(int64_t count, const ELEMENT *saved, const ELEMENT *by_y, ELEMENT *by_x)
{
    for (int64_t i = 0; i < count; ++i) {
        const ELEMENT taken = by_y[i];
        by_x[i] = LOAD(saved[i]) <= 0.0f ? 0 : taken;
    }
}

CPU_CLONES static void TYPED(activation_gradient)(uint32_t kind, float slope, uint32_t add, int64_t count,
                                                  const void *saved, const void *by_y, void *by_x)
{
    if (kind == MMEBM_RELU && !add) {
        TYPED(relu_mask)(count, saved, by_y, by_x);
        return;
    }
    switch (kind) {
    case MMEBM_RELU: TYPED(slope_loop)(MMEBM_RELU, slope, add, count, saved, by_y, by_x); break;
    case MMEBM_LEAKY_RELU: TYPED(slope_loop)(MMEBM_LEAKY_RELU, slope, add, count, saved, by_y, by_x); break;
    case MMEBM_SILU: TYPED(slope_loop)(MMEBM_SILU, slope, add, count, saved, by_y, by_x); break;
    case MMEBM_SOFTPLUS: TYPED(slope_loop)(MMEBM_SOFTPLUS, slope, add, count, saved, by_y, by_x); break;
    case MMEBM_TANH: TYPED(slope_loop)(MMEBM_TANH, slope, add, count, saved, by_y, by_x); break;
    default: TYPED(slope_loop)(MMEBM_SIGMOID, slope, add, count, saved, by_y, by_x); break;
    }
}

CPU_CLONES static void TYPED(bias)(int64_t pixels, int64_t channels, const float *bias, ELEMENT *y)
{
    for (int64_t p = 0; p < pixels; ++p, y += channels)
        for (int64_t c = 0; c < channels; ++c) y[c] = STORE(LOAD(y[c]) + bias[c]);
}

CPU_CLONES static void TYPED(bias_gradient)(int64_t pixels, int64_t channels, const ELEMENT *by_y, float *by_bias)
{
    memset(by_bias, 0, (size_t)channels * sizeof *by_bias);
    for (int64_t p = 0; p < pixels; ++p, by_y += channels)
        for (int64_t c = 0; c < channels; ++c) by_bias[c] += LOAD(by_y[c]);
}

/* ---- add, concat */

CPU_CLONES static void TYPED(add)(int64_t count, float alpha, const ELEMENT *a, float beta, const ELEMENT *b,
                                  ELEMENT *y)
{
    for (int64_t i = 0; i < count; ++i) y[i] = STORE(alpha * LOAD(a[i]) + beta * LOAD(b[i]));
}

CPU_CLONES static void TYPED(scale)(uint32_t add, int64_t count, float alpha, const ELEMENT *a, ELEMENT *y)
{
    if (add)
        for (int64_t i = 0; i < count; ++i) TYPED(put)(1, &y[i], alpha * LOAD(a[i]));
    else
        for (int64_t i = 0; i < count; ++i) TYPED(put)(0, &y[i], alpha * LOAD(a[i]));
}

CPU_INLINE void TYPED(copy_loop)(uint32_t add, int64_t pixels, int64_t channels, int64_t from_stride,
                                 const ELEMENT *from, int64_t to_stride, ELEMENT *to)
{
    for (int64_t p = 0; p < pixels; ++p, from += from_stride, to += to_stride) {
        if (add)
            for (int64_t c = 0; c < channels; ++c) TYPED(put)(1, &to[c], LOAD(from[c]));
        else
            for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
    }
}

/* Pictures have three: as a constant, or the loop over them takes three times as long. */
CPU_CLONES static void TYPED(copy_channels)(uint32_t add, int64_t pixels, int64_t channels, int64_t from_stride,
                                            const ELEMENT *from, int64_t to_stride, ELEMENT *to)
{
    if (channels == 3 && !add)
        TYPED(copy_loop)(0, pixels, 3, from_stride, from, to_stride, to);
    else
        TYPED(copy_loop)(add, pixels, channels, from_stride, from, to_stride, to);
}

/* ---- pooling, upsampling */

/* One output pixel: the mean of a window that may hang over the edge. */
CPU_INLINE void TYPED(pool_pixel)(const cpu_window *w, int64_t channels, const ELEMENT *x, float factor, ELEMENT *y)
{
    for (int64_t c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int64_t v = w->first[0]; v < w->last[0]; ++v)
            for (int64_t u = w->first[1]; u < w->last[1]; ++u) sum += LOAD(x[(v * w->width + u) * channels + c]);
        y[c] = STORE(sum * factor);
    }
}

/* 2 x 2 windows side by side, which is what networks use: written out so that the loop over channels becomes vector
 * code. */
CPU_INLINE void TYPED(pool_quads)(const mmebm_layer *layer, int64_t rows, const ELEMENT *x, ELEMENT *y)
{
    const int64_t channels = layer->shape[2], line = 2 * layer->shape[1] * channels;
    for (int64_t v = 0; v < rows * layer->shape[0]; ++v, x += line)
        for (int64_t u = 0; u < layer->shape[1]; ++u, x += 2 * channels, y += channels)
            for (int64_t c = 0; c < channels; ++c)
                y[c] = STORE((LOAD(x[c]) + LOAD(x[channels + c]) + LOAD(x[line + c]) + LOAD(x[line + channels + c])) *
                             0.25f);
}

CPU_CLONES static void TYPED(avg_pool)(const mmebm_layer *layer, const mmebm_layer *from, int64_t rows,
                                       const ELEMENT *x, ELEMENT *y)
{
    const int64_t channels = layer->shape[2];
    const float factor = 1.0f / (float)(layer->kernel[0] * layer->kernel[1]);
    if (mmebm__cpu_is_quads(layer, from)) {
        TYPED(pool_quads)(layer, rows, x, y);
        return;
    }
    for (int64_t r = 0; r < rows; ++r, x += from->count) {
        for (int64_t pixel = 0; pixel < layer->shape[0] * layer->shape[1]; ++pixel, y += channels) {
            const cpu_window w = window_of(layer, from, pixel);
            TYPED(pool_pixel)(&w, channels, x, factor, y);
        }
    }
}

/* One input pixel: the sum over the outputs whose windows hold it. */
CPU_INLINE void TYPED(spread_pixel)(uint32_t add, const cpu_window *w, int64_t channels, const ELEMENT *by_y,
                                    float factor, ELEMENT *by_x)
{
    for (int64_t c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int64_t v = w->first[0]; v < w->last[0]; ++v)
            for (int64_t u = w->first[1]; u < w->last[1]; ++u) sum += LOAD(by_y[(v * w->width + u) * channels + c]);
        TYPED(put)(add, &by_x[c], sum * factor);
    }
}

CPU_INLINE void TYPED(spread_quads)(uint32_t add, const mmebm_layer *layer, int64_t rows, const ELEMENT *by_y,
                                    ELEMENT *by_x)
{
    const int64_t channels = layer->shape[2], line = layer->shape[1] * channels;
    for (int64_t v = 0; v < 2 * rows * layer->shape[0]; ++v)
        for (int64_t u = 0; u < 2 * layer->shape[1]; ++u, by_x += channels) {
            const ELEMENT *source = by_y + v / 2 * line + u / 2 * channels;
            for (int64_t c = 0; c < channels; ++c) TYPED(put)(add, &by_x[c], LOAD(source[c]) * 0.25f);
        }
}

CPU_CLONES static void TYPED(avg_pool_gradient)(uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                                int64_t rows, const ELEMENT *by_y, ELEMENT *by_x)
{
    const int64_t channels = layer->shape[2];
    const float factor = 1.0f / (float)(layer->kernel[0] * layer->kernel[1]);
    if (mmebm__cpu_is_quads(layer, from)) {
        if (add)
            TYPED(spread_quads)(1, layer, rows, by_y, by_x);
        else
            TYPED(spread_quads)(0, layer, rows, by_y, by_x);
        return;
    }
    for (int64_t r = 0; r < rows; ++r, by_y += layer->count) {
        for (int64_t pixel = 0; pixel < from->shape[0] * from->shape[1]; ++pixel, by_x += channels) {
            const cpu_window w = reverse_window_of(layer, from, pixel);
            TYPED(spread_pixel)(add, &w, channels, by_y, factor, by_x);
        }
    }
}

static void TYPED(upsample)(const mmebm_layer *layer, const mmebm_layer *from, int64_t rows, const ELEMENT *x,
                            ELEMENT *y)
{
    const int64_t channels = layer->shape[2], width = from->shape[1], line = layer->shape[1] * channels;
    for (int64_t v = 0; v < rows * from->shape[0]; ++v) {
        ELEMENT *first = y;
        for (int64_t u = 0; u < width; ++u, x += channels)
            for (int64_t i = 0; i < layer->factor; ++i, y += channels)
                memcpy(y, x, (size_t)channels * sizeof *y);
        for (int64_t i = 1; i < layer->factor; ++i, y += line) memcpy(y, first, (size_t)line * sizeof *y);
    }
}

CPU_CLONES static void TYPED(upsample_gradient)(uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                                int64_t rows, const ELEMENT *by_y, ELEMENT *by_x)
{
    const int64_t channels = layer->shape[2], factor = layer->factor, width = layer->shape[1];
    for (int64_t v = 0; v < rows * from->shape[0]; ++v) {
        for (int64_t u = 0; u < from->shape[1]; ++u, by_x += channels) {
            const ELEMENT *corner = by_y + (v * factor * width + u * factor) * channels;
            const ELEMENT *below = corner + width * channels;
            if (factor == 2 && !add) {
                for (int64_t c = 0; c < channels; ++c)
                    by_x[c] = STORE(LOAD(corner[c]) + LOAD(corner[channels + c]) + LOAD(below[c]) +
                                    LOAD(below[channels + c]));
                continue;
            }
            for (int64_t c = 0; c < channels; ++c) {
                float sum = 0.0f;
                for (int64_t i = 0; i < factor * factor; ++i)
                    sum += LOAD(corner[((i / factor) * width + i % factor) * channels + c]);
                TYPED(put)(add, &by_x[c], sum);
            }
        }
    }
}

CPU_CLONES static void TYPED(global_pool)(int64_t rows, int64_t pixels, int64_t channels, const ELEMENT *x, float *y)
{
    const float factor = 1.0f / (float)pixels;
    for (int64_t r = 0; r < rows; ++r, y += channels) {
        memset(y, 0, (size_t)channels * sizeof *y);
        for (int64_t p = 0; p < pixels; ++p, x += channels)
            for (int64_t c = 0; c < channels; ++c) y[c] += LOAD(x[c]);
        for (int64_t c = 0; c < channels; ++c) y[c] *= factor;
    }
}

CPU_CLONES static void TYPED(global_pool_gradient)(uint32_t add, int64_t rows, int64_t pixels, int64_t channels,
                                                   const float *by_y, ELEMENT *by_x)
{
    const float factor = 1.0f / (float)pixels;
    for (int64_t p = 0; p < rows * pixels; ++p, by_x += channels) {
        const float *source = by_y + p / pixels * channels;
        for (int64_t c = 0; c < channels; ++c) TYPED(put)(add, &by_x[c], source[c] * factor);
    }
}

/* ---- batch norm with stored statistics */

CPU_CLONES static void TYPED(scale_shift)(int64_t pixels, int64_t channels, const float *scale, const float *shift,
                                          const ELEMENT *x, ELEMENT *y)
{
    for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels)
        for (int64_t c = 0; c < channels; ++c) y[c] = STORE(scale[c] * LOAD(x[c]) + shift[c]);
}

CPU_CLONES static void TYPED(scale_shift_gradient)(uint32_t add, int64_t pixels, int64_t channels, const float *scale,
                                                   const ELEMENT *by_y, ELEMENT *by_x)
{
    for (int64_t p = 0; p < pixels; ++p, by_x += channels, by_y += channels)
        for (int64_t c = 0; c < channels; ++c) TYPED(put)(add, &by_x[c], scale[c] * LOAD(by_y[c]));
}

CPU_CLONES static void TYPED(norm_gradient)(int64_t rows, int64_t pixels, int64_t channels, const ELEMENT *x,
                                            const ELEMENT *by_y, const cpu_norm_sums *sums)
{
    const float factor = 1.0f / (float)pixels;
    for (int64_t p = 0; p < rows * pixels; ++p, x += channels, by_y += channels) {
        for (int64_t c = 0; c < channels; ++c) {
            const float centred = LOAD(x[c]) - sums->mean[c], gradient = LOAD(by_y[c]);
            sums->by_gain[c] += gradient * (centred * sums->inverse[c]);
            sums->by_shift[c] += gradient;
            sums->row_means[c] += LOAD(x[c]) * factor;
            sums->row_variances[c] += centred * centred * factor;
        }
    }
}
