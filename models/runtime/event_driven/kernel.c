/* One step of a streaming spiking network that computes where spikes are, and nowhere else.
 *
 * Spikes are bits: of each pixel, ceil(channels / 64) words. Weights lie as [tap][c_in][c_out], so that an input spike
 * adds one row of them to the membranes of an output pixel. A layer is one pass: for each output pixel the rows of its
 * active inputs are listed, added up in registers, and the neurons leak, fire, reset and are packed into bits before
 * the next pixel is looked at.
 *
 * Every pixel is computed by one thread, its rows in the order (tap, c_in), whatever else is computed beside it: the
 * bits of an answer depend neither on the number of threads nor on the other rows of a batch.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define WIDTH 16
#define BLOCK 12 /* vectors of output channels that are held in registers at a time */
#elif defined(__AVX2__)
#include <immintrin.h>
#define WIDTH 8
#define BLOCK 12
#else
#define WIDTH 4
#define BLOCK 8
#endif

#define MOST_PARTS 4
#define PAD 16 /* rows of weights are padded to a multiple of so many channels, whatever the width of a vector */

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

enum { ANALOG = 0, SPIKING = 1, READOUT = 2 };

/* A layer whose spikes another one reads; its grid may be coarser by 2^shift. */
typedef struct {
    int32_t layer, channels, shift, reserved;
} Part;

typedef struct {
    int32_t kind, in_height, in_width, height, width, channels, kernel, stride, dilation, padding, in_channels, parts;
    Part part[MOST_PARTS];
    const float *weight, *bias, *keep;
} Layer;

/* Of one row of the batch and one layer. */
typedef struct {
    const float *before;
    float *after;
    uint64_t *bits; /* NULL for the readout */
    int64_t spikes;
} Slot;

/* The input of one row of the batch: values [y][x][channel], and which of them are not zero. */
typedef struct {
    const float *values;
    const uint8_t *active; /* [y][bytes], bit PAD_BITS + x * channels + channel */
    int64_t active_pitch;
} Input;

#define PAD_BITS 64

typedef struct {
    const Layer *layers;
    Slot *slots; /* [batch][layers] */
    const Input *inputs;
    int32_t layer_count, batch, threads;
    int32_t failed;
    int64_t *next, *done; /* [layers] */
} Run;

int32_t spikeseg_vector_width(void) { return WIDTH; }
int32_t spikeseg_abi(void) { return (int32_t)(sizeof(Layer) + 1000 * sizeof(Slot) + 100000 * sizeof(Input)); }

static inline int words_of(int channels) { return (channels + 63) / 64; }
static inline int padded(int channels) { return (channels + PAD - 1) / PAD * PAD; }

/* The offsets of the weight rows of the set bits: base, base + pitch, ... */
static inline uint32_t *list_rows(uint32_t *out, const uint64_t *bits, int channels, uint32_t base, uint32_t pitch) {
#if WIDTH == 16
    const uint16_t *pieces = (const uint16_t *)bits;
    const __m512i steps = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)pitch));
    for (int first = 0; first < channels; first += 16) {
        const uint32_t piece = *pieces++;
        const __m512i rows = _mm512_add_epi32(steps, _mm512_set1_epi32((int)(base + (uint32_t)first * pitch)));
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi32((__mmask16)piece, rows));
        out += __builtin_popcount(piece);
    }
#else
    for (int word = 0; word < words_of(channels); word++, base += 64 * pitch)
        for (uint64_t rest = bits[word]; rest; rest &= rest - 1) *out++ = base + pitch * (uint32_t)__builtin_ctzll(rest);
#endif
    return out;
}

static inline uint32_t at_threshold(vec h) {
#if WIDTH == 16
    return _mm512_cmp_ps_mask((__m512)h, _mm512_set1_ps(1.0f), _CMP_GE_OQ);
#elif WIDTH == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)h, _mm256_set1_ps(1.0f), _CMP_GE_OQ));
#else
    uint32_t mask = 0;
    for (int lane = 0; lane < WIDTH; lane++) mask |= (uint32_t)(h[lane] >= 1.0f) << lane;
    return mask;
#endif
}

static inline vec after_spikes(vec h) {
#if WIDTH == 16
    const __m512 one = _mm512_set1_ps(1.0f);
    return (vec)_mm512_mask_sub_ps((__m512)h, _mm512_cmp_ps_mask((__m512)h, one, _CMP_GE_OQ), (__m512)h, one);
#else
    vec one = {0};
    one += 1.0f;
    typedef int32_t ints __attribute__((vector_size(4 * WIDTH)));
    const ints fires = h >= one;
    return h - (vec)(fires & (ints)one);
#endif
}

static inline vec load(const float *from) { return *(const vec *)from; }

static inline vec load_some(const float *from, int lanes) {
    vec v = {0};
    memcpy(&v, from, (size_t)lanes * sizeof(float));
    return v;
}

/* Adds the listed rows to the bias, leaks, integrates and fires, for `count` vectors of channels of one pixel.
 * `factor` is NULL for spikes, or the value of each input. `lanes` are those of the last vector that exist. */
static inline __attribute__((always_inline)) void integrate(
    const int count, const int analog, const int fires, int lanes, const float *weight, const uint32_t *rows,
    const float *factor, int n, const float *bias, const float *keep, const float *before, float *after,
    uint64_t *bits, int first) {
    vec sum[BLOCK];
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) sum[j] = load(bias + j * WIDTH);
    for (int i = 0; i < n; i++) {
        const float *row = weight + rows[i];
        if (analog) {
            const float value = factor[i];
#pragma GCC unroll 16
            for (int j = 0; j < count; j++) sum[j] += load(row + j * WIDTH) * value;
        } else {
#pragma GCC unroll 16
            for (int j = 0; j < count; j++) sum[j] += load(row + j * WIDTH);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) {
        const int whole = j < count - 1 || lanes == WIDTH;
        const vec v = whole ? load(before + j * WIDTH) : load_some(before + j * WIDTH, lanes);
        const vec h = v * load(keep + j * WIDTH) + sum[j];
        vec left = h;
        if (fires) {
            const uint64_t mask = at_threshold(h);
            left = after_spikes(h);
            const int channel = first + j * WIDTH;
            bits[channel / 64] |= mask << channel % 64;
        }
        if (whole)
            *(vec *)(after + j * WIDTH) = left;
        else
            memcpy(after + j * WIDTH, &left, (size_t)lanes * sizeof(float));
    }
}

static inline __attribute__((always_inline)) void integrate_pixel(
    const int analog, const int fires, const Layer *layer, const uint32_t *rows, const float *factor, int n,
    const float *before, float *after, uint64_t *bits) {
    const int vectors = (layer->channels + WIDTH - 1) / WIDTH;
    for (int begin = 0; begin < vectors; begin += BLOCK) {
        const int count = vectors - begin < BLOCK ? vectors - begin : BLOCK;
        const int first = begin * WIDTH;
        const int last = layer->channels - (begin + count - 1) * WIDTH;
        const int lanes = last < WIDTH ? last : WIDTH;
#define CASE(k)                                                                                                       \
    case k:                                                                                                           \
        integrate(k, analog, fires, lanes, layer->weight + first, rows, factor, n, layer->bias + first,               \
                  layer->keep + first, before + first, after + first, bits, first);                                   \
        break;
        switch (count) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#if BLOCK > 8
            CASE(9) CASE(10) CASE(11) CASE(12)
#endif
        }
#undef CASE
    }
}

/* The taps [from, to) along one axis that fall inside the input. */
static inline void inside(int out, int stride, int dilation, int padding, int kernel, int size, int *from, int *to) {
    const int first = out * stride - padding;
    *from = first < 0 ? (-first + dilation - 1) / dilation : 0;
    *to = first < size ? (size - 1 - first) / dilation + 1 : 0;
    if (*to > kernel) *to = kernel;
}

static int64_t spikes_in(const uint64_t *bits, int64_t words) {
    int64_t total = 0;
    for (int64_t i = 0; i < words; i++) total += __builtin_popcountll(bits[i]);
    return total;
}

static void spiking_row(const Layer *layer, const Layer *layers, const Slot *slots, Slot *slot, int y, uint32_t *rows) {
    const int words = words_of(layer->channels), width = layer->width;
    const uint32_t pitch = (uint32_t)padded(layer->channels);
    int ky0, ky1;
    inside(y, layer->stride, layer->dilation, layer->padding, layer->kernel, layer->in_height, &ky0, &ky1);
    for (int x = 0; x < width; x++) {
        int kx0, kx1;
        inside(x, layer->stride, layer->dilation, layer->padding, layer->kernel, layer->in_width, &kx0, &kx1);
        uint32_t *end = rows;
        for (int ky = ky0; ky < ky1; ky++) {
            const int iy = y * layer->stride - layer->padding + ky * layer->dilation;
            for (int kx = kx0; kx < kx1; kx++) {
                const int ix = x * layer->stride - layer->padding + kx * layer->dilation;
                uint32_t base = (uint32_t)((ky * layer->kernel + kx) * layer->in_channels) * pitch;
                for (int p = 0; p < layer->parts; p++) {
                    const Part *part = &layer->part[p];
                    const Layer *source = &layers[part->layer];
                    const int64_t pixel = (int64_t)(iy >> part->shift) * source->width + (ix >> part->shift);
                    const uint64_t *bits = slots[part->layer].bits + pixel * words_of(part->channels);
                    end = list_rows(end, bits, part->channels, base, pitch);
                    base += (uint32_t)part->channels * pitch;
                }
            }
        }
        const int64_t pixel = (int64_t)y * width + x, at = pixel * layer->channels;
        const int n = (int)(end - rows);
        if (layer->kind == READOUT) {
            integrate_pixel(0, 0, layer, rows, NULL, n, slot->before + at, slot->after + at, NULL);
        } else {
            uint64_t *bits = slot->bits + pixel * words;
            for (int word = 0; word < words; word++) bits[word] = 0;
            integrate_pixel(0, 1, layer, rows, NULL, n, slot->before + at, slot->after + at, bits);
        }
    }
}

static void analog_row(const Layer *layer, const Input *input, Slot *slot, int y, uint32_t *rows, float *factor) {
    const int words = words_of(layer->channels), width = layer->width, channels = layer->in_channels;
    const uint32_t pitch = (uint32_t)padded(layer->channels);
    const uint64_t mask = (1ull << layer->kernel * channels) - 1;
    int ky0, ky1;
    inside(y, layer->stride, 1, layer->padding, layer->kernel, layer->in_height, &ky0, &ky1);
    for (int x = 0; x < width; x++) {
        const int64_t first = ((int64_t)x * layer->stride - layer->padding) * channels;
        int n = 0;
        for (int ky = ky0; ky < ky1; ky++) {
            const int iy = y * layer->stride - layer->padding + ky;
            uint64_t found;
            memcpy(&found, input->active + iy * input->active_pitch + (first + PAD_BITS) / 8, 8);
            found = found >> (first + PAD_BITS) % 8 & mask;
            const float *values = input->values + (int64_t)iy * layer->in_width * channels + first;
            for (; found; found &= found - 1) {
                const int at = __builtin_ctzll(found);
                rows[n] = (uint32_t)(ky * layer->kernel * channels + at) * pitch;
                factor[n++] = values[at];
            }
        }
        const int64_t pixel = (int64_t)y * width + x, at = pixel * layer->channels;
        uint64_t *bits = slot->bits + pixel * words;
        for (int word = 0; word < words; word++) bits[word] = 0;
        integrate_pixel(1, 1, layer, rows, factor, n, slot->before + at, slot->after + at, bits);
    }
}

/* Every thread takes rows of the layer until none is left, then waits for those that others are at. A thread that
 * comes late finds the work done; nobody waits for it. */
static void *work(void *argument) {
    Run *run = argument;
    int64_t most = 0;
    for (int l = 0; l < run->layer_count; l++) {
        const int64_t inputs = (int64_t)run->layers[l].kernel * run->layers[l].kernel * run->layers[l].in_channels;
        if (inputs > most) most = inputs;
    }
    /* list_rows writes whole vectors. */
    uint32_t *rows = malloc((size_t)(most + 16) * (sizeof(uint32_t) + sizeof(float)));
    if (rows == NULL) {
        __atomic_store_n(&run->failed, 1, __ATOMIC_RELEASE);
        return NULL;
    }
    float *factor = (float *)(rows + most + 16);
    for (int l = 0; l < run->layer_count; l++) {
        const Layer *layer = &run->layers[l];
        const int64_t total = (int64_t)run->batch * layer->height;
        const int64_t chunk = run->threads == 1 ? total : total / (8 * run->threads) + 1;
        for (;;) {
            const int64_t begin = __atomic_fetch_add(&run->next[l], chunk, __ATOMIC_RELAXED);
            if (begin >= total) break;
            const int64_t end = begin + chunk < total ? begin + chunk : total;
            for (int64_t row = begin; row < end; row++) {
                const int64_t b = row / layer->height;
                const int y = (int)(row % layer->height);
                Slot *slots = run->slots + b * run->layer_count;
                if (layer->kind == ANALOG)
                    analog_row(layer, &run->inputs[b], &slots[l], y, rows, factor);
                else
                    spiking_row(layer, run->layers, slots, &slots[l], y, rows);
                if (layer->kind != READOUT) {
                    const int64_t words = (int64_t)layer->width * words_of(layer->channels);
                    __atomic_fetch_add(&slots[l].spikes, spikes_in(slots[l].bits + y * words, words), __ATOMIC_RELAXED);
                }
            }
            __atomic_fetch_add(&run->done[l], end - begin, __ATOMIC_RELEASE);
        }
        for (int spins = 0; __atomic_load_n(&run->done[l], __ATOMIC_ACQUIRE) < total; spins++) {
            if (__atomic_load_n(&run->failed, __ATOMIC_ACQUIRE)) break;
            if (spins > 1000) sched_yield();
        }
    }
    free(rows);
    return NULL;
}

/* Advance `batch` rows by one step on so many threads. `counters` are 2 * layer_count zeros. 0, or -1 without memory. */
int32_t spikeseg_step(const Layer *layers, int32_t layer_count, Slot *slots, const Input *inputs, int32_t batch,
                      int32_t threads, int64_t *counters) {
    enum { MOST_THREADS = 256 };
    pthread_t helpers[MOST_THREADS];
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Run run = {layers, slots, inputs, layer_count, batch, threads, 0, counters, counters + layer_count};
    int started = 0;
    while (started < threads - 1 && pthread_create(&helpers[started], NULL, work, &run) == 0) started++;
    work(&run);
    for (int k = 0; k < started; k++) pthread_join(helpers[k], NULL);
    return run.failed ? -1 : 0;
}

/* Values (channels, height, width) to [y][x][channel] with a map of those that are not zero; gives their number. */
int64_t spikeseg_pack_input(const float *x, int32_t channels, int32_t height, int32_t width, float *values,
                            uint8_t *active, int64_t active_pitch) {
    int64_t total = 0;
    memset(active, 0, (size_t)(height * active_pitch));
    for (int y = 0; y < height; y++) {
        uint8_t *row = active + y * active_pitch + PAD_BITS / 8;
        for (int c = 0; c < channels; c++) {
            const float *from = x + ((int64_t)c * height + y) * width;
            float *to = values + (int64_t)y * width * channels + c;
            for (int column = 0; column < width; column++) {
                const int bit = column * channels + c;
                const int set = from[column] != 0.0f;
                to[(int64_t)column * channels] = from[column];
                row[bit / 8] |= (uint8_t)(set << bit % 8);
                total += set;
            }
        }
    }
    return total;
}

/* Count the events of a window in each cell, as models.encoding.polarity_counts does, into what spikeseg_pack_input
 * gives. The number of cells that are not zero, or -1 if an event lies outside the sensor. */
int64_t spikeseg_count_events(const uint16_t *x, const uint16_t *y, const uint8_t *p, int64_t events, int32_t factor,
                              int32_t sensor_height, int32_t sensor_width, int32_t height, int32_t width, float clip,
                              float *values, uint8_t *active, int64_t active_pitch) {
    int64_t total = 0;
    memset(active, 0, (size_t)(height * active_pitch));
    memset(values, 0, (size_t)height * (size_t)width * 2 * sizeof(float));
    for (int64_t i = 0; i < events; i++) {
        if (x[i] >= sensor_width || y[i] >= sensor_height) return -1;
        const uint32_t row = factor == 1 ? y[i] : y[i] / (uint32_t)factor;
        const uint32_t column = factor == 1 ? x[i] : x[i] / (uint32_t)factor;
        const uint32_t bit = 2 * column + (p[i] != 0);
        float *value = values + (int64_t)row * width * 2 + bit;
        total += *value == 0.0f;
        *value += *value < clip ? 1.0f : 0.0f;
        active[row * active_pitch + PAD_BITS / 8 + bit / 8] |= (uint8_t)(1u << bit % 8);
    }
    return total;
}

/* Sub-pixel readout [y][x][class][scale][scale] to planes of logits (classes, height, width), cut to size. */
void spikeseg_shuffle(const float *v, int32_t in_width, int32_t classes, int32_t scale, int32_t height, int32_t width,
                      float *logits) {
    const int channels = classes * scale * scale;
    for (int c = 0; c < classes; c++)
        for (int y = 0; y < height; y++) {
            const float *from = v + (int64_t)(y / scale) * in_width * channels + (c * scale + y % scale) * scale;
            float *to = logits + ((int64_t)c * height + y) * width;
            for (int x = 0; x < width; x++) to[x] = from[(int64_t)(x / scale) * channels + x % scale];
        }
}

/* Class ids (height, width) from logits (classes, rows, columns), bilinear between the cells' centres; the lowest class
 * of equals. 0, or -1 without memory. */
int32_t spikeseg_mask(const float *logits, int32_t classes, int32_t rows, int32_t columns, int32_t stride,
                      int32_t height, int32_t width, uint8_t *mask) {
    float *work_space = malloc(sizeof(float) * (size_t)(columns + 3 * (int64_t)width));
    int32_t *left = malloc(sizeof(int32_t) * (size_t)width * 2);
    if (work_space == NULL || left == NULL) {
        free(work_space);
        free(left);
        return -1;
    }
    float *line = work_space, *best = line + columns, *share = best + width, *full = share + width;
    int32_t *right = left + width;
    const float scale = 1.0f / (float)stride;
    for (int x = 0; x < width; x++) {
        float at = ((float)x + 0.5f) * scale - 0.5f;
        if (at < 0.0f) at = 0.0f;
        left[x] = (int32_t)at;
        right[x] = left[x] + (left[x] < columns - 1);
        share[x] = at - (float)left[x];
    }
    for (int y = 0; y < height; y++) {
        float at = ((float)y + 0.5f) * scale - 0.5f;
        if (at < 0.0f) at = 0.0f;
        const int above = (int)at, below = above + (above < rows - 1);
        const float low = at - (float)above, high = 1.0f - low;
        uint8_t *ids = mask + (int64_t)y * width;
        memset(ids, 0, (size_t)width);
        for (int c = 0; c < classes; c++) {
            const float *a = logits + ((int64_t)c * rows + above) * columns;
            const float *b = logits + ((int64_t)c * rows + below) * columns;
            for (int x = 0; x < columns; x++) line[x] = high * a[x] + low * b[x];
            for (int x = 0; x < width; x++) full[x] = (1.0f - share[x]) * line[left[x]] + share[x] * line[right[x]];
            if (c == 0) {
                memcpy(best, full, sizeof(float) * (size_t)width);
                continue;
            }
            for (int x = 0; x < width; x++) {
                ids[x] = full[x] > best[x] ? (uint8_t)c : ids[x];
                best[x] = full[x] > best[x] ? full[x] : best[x];
            }
        }
    }
    free(work_space);
    free(left);
    return 0;
}
