/* One step of a streaming spiking network that computes where spikes are, and nowhere else.
 *
 * The spikes of a layer are lists: for each line of its grid the channels that fired, pixel by pixel, and where each
 * pixel's begin. Weights lie as [tap][c_in][c_out], so that an input spike adds one row of them to the membranes of an
 * output pixel. A layer is one pass: for each output pixel the rows of its active inputs are listed, added up in
 * registers, and the neurons leak, fire, reset and are listed before the next pixel is looked at.
 *
 * Weights are floats, or bytes with a scale for each output channel. Bytes are added up as integers, which is exact in
 * any order and takes a quarter of the memory, and scaled once for each neuron.
 *
 * Every pixel is computed by one thread, its rows in the order (tap, c_in), whatever else is computed beside it, and
 * whatever the width of a vector: the bits of an answer depend neither on the number of threads nor on the other rows of
 * a batch, and are the same on all processors that multiply and add in one rounding.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#include <immintrin.h>
#define WIDTH 16
#define BLOCK 12 /* vectors of output channels that are held in registers at a time */
#elif defined(__AVX2__)
#include <immintrin.h>
#define WIDTH 8
#define BLOCK 6
#else
#define WIDTH 4
#define BLOCK 6
#endif

#define MOST_PARTS 4
#define AHEAD 512 /* floats */
#define PAD 16 /* rows of weights are padded to a multiple of so many channels, whatever the width of a vector */

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

typedef int8_t bytes __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef int16_t shorts __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
/* Integers of 16 bits go into a vector twice as many at a time. */
typedef int8_t more_bytes __attribute__((vector_size(2 * WIDTH), aligned(1), may_alias));
typedef int16_t more_shorts __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

enum { ANALOG = 0, SPIKING = 1, READOUT = 2 };
enum { FLOATS = 0, BYTES = 1 };

/* A layer whose spikes another one reads; its grid may be coarser by 2^shift. */
typedef struct {
    int32_t layer, channels, shift, reserved;
} Part;

typedef struct {
    int32_t kind, form, in_height, in_width, height, width, channels, kernel, stride, dilation, padding, in_channels, parts;
    Part part[MOST_PARTS];
    float fires_at, reset; /* the least potential of a neuron that fires, and what is subtracted then */
    const void *weight; /* floats or bytes, as `form` says */
    const float *scale; /* of bytes */
    const float *bias, *keep;
} Layer;

/* Of one row of the batch and one layer. The readout has no spikes. */
typedef struct {
    const float *before;
    float *after;
    uint16_t *lists;  /* [height][list_pitch]: the channels that fired */
    uint32_t *starts; /* [height][width + 1]: where those of a pixel begin in its line */
    int64_t spikes;
} Slot;

/* The input of one row of the batch: values [y][x][channel], and which of them are not zero. The map has `padding`
 * lines of zeros above and below, and 64 bits of them to the left and at least as many to the right. */
typedef struct {
    const float *values;
    const uint8_t *active; /* [y + padding][bytes], bit 64 + x * channels + channel */
    int64_t active_pitch;
} Input;

#define PAD_BITS 64

#define MOST_LAYERS 64
#define MOST_THREADS 256

/* One call. It outlives the call until the last helper has left, who looks at nothing else by then. */
typedef struct {
    const Layer *layers;
    Slot *slots; /* [batch][layers] */
    const Input *inputs;
    int32_t first, end, layer_count, threads, references;
    int64_t most_rows; /* of weights, for one pixel */
    int64_t total[MOST_LAYERS], next[MOST_LAYERS], done[MOST_LAYERS]; /* lines of output of the whole batch */
} Run;

int32_t spikeseg_abi(void) { return (int32_t)(sizeof(Layer) + 1000 * sizeof(Slot) + 100000 * sizeof(Input)); }

static inline int padded(int channels) { return (channels + PAD - 1) / PAD * PAD; }

/* Whole vectors are written behind the end of a list. */
#define LIST_PAD 64
static inline int64_t list_pitch(const Layer *layer) { return (int64_t)layer->width * layer->channels + LIST_PAD; }

typedef uint16_t numbers __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

/* Append the channels of one pixel to the rows that are to be added. */
static inline uint16_t *append(uint16_t *rows, const uint16_t *list, uint32_t count, uint16_t base) {
    uint32_t i = 0;
    do {
        *(numbers *)(rows + i) = *(const numbers *)(list + i) + base;
        i += 2 * WIDTH;
    } while (__builtin_expect(i < count, 0));
    return rows + count;
}

/* Append channel + the place of each set bit. */
static inline uint16_t *append_bits(uint16_t *list, uint32_t mask, int channel) {
#if WIDTH == 16
    const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i channels = _mm512_add_epi32(places, _mm512_set1_epi32(channel));
    const __m512i found = _mm512_maskz_compress_epi32((__mmask16)mask, channels);
    _mm256_storeu_si256((__m256i *)list, _mm512_cvtepi32_epi16(found));
    return list + __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1) *list++ = (uint16_t)(channel + __builtin_ctz(mask));
    return list;
#endif
}

static inline uint32_t at_least(vec h, float bound) {
#if WIDTH == 16
    return _mm512_cmp_ps_mask((__m512)h, _mm512_set1_ps(bound), _CMP_GE_OQ);
#elif WIDTH == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)h, _mm256_set1_ps(bound), _CMP_GE_OQ));
#else
    uint32_t mask = 0;
    for (int lane = 0; lane < WIDTH; lane++) mask |= (uint32_t)(h[lane] >= bound) << lane;
    return mask;
#endif
}

static inline vec after_spikes(vec h, float fires_at, float reset) {
#if WIDTH == 16
    const __mmask16 fires = _mm512_cmp_ps_mask((__m512)h, _mm512_set1_ps(fires_at), _CMP_GE_OQ);
    return (vec)_mm512_mask_sub_ps((__m512)h, fires, (__m512)h, _mm512_set1_ps(reset));
#else
    const vec subtracted = (vec){0} + reset;
    const ints fires = h >= fires_at;
    return h - (vec)(fires & (ints)subtracted);
#endif
}

static inline vec load(const float *from) { return *(const vec *)from; }

static inline vec load_some(const float *from, int lanes) {
    vec v = {0};
    memcpy(&v, from, (size_t)lanes * sizeof(float));
    return v;
}

/* So many bytes of 127 at most fit an integer of 16 bits. */
#define MOST_ADDED 256

/* The two halves of a vector of integers, as floats. */
static inline void to_floats(more_shorts from, vec *low, vec *high) {
#if WIDTH == 16
    *low = (vec)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256((__m512i)from)));
    *high = (vec)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64((__m512i)from, 1)));
#elif WIDTH == 8
    *low = (vec)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128((__m256i)from)));
    *high = (vec)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256((__m256i)from, 1)));
#else
    for (int lane = 0; lane < WIDTH; lane++) {
        (*low)[lane] = from[lane];
        (*high)[lane] = from[WIDTH + lane];
    }
#endif
}

/* Sign extension of two vectors' worth of bytes; compilers make several instructions of a conversion that is one. */
static inline more_shorts widened(const int8_t *from) {
#if WIDTH == 16
    return (more_shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
#elif WIDTH == 8
    return (more_shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    return __builtin_convertvector(*(const more_bytes *)from, more_shorts);
#endif
}

static inline shorts widened_one(const int8_t *from) {
#if WIDTH == 16
    return (shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
#elif WIDTH == 8
    return (shorts)_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)from));
#else
    return __builtin_convertvector(*(const bytes *)from, shorts);
#endif
}

/* Sums of the listed rows of bytes, for `count` vectors of channels of one pixel. They are whole numbers below 2^24, so
 * that floats hold them exactly. */
static inline __attribute__((always_inline)) void add_bytes(
    const int count, const int8_t *weight, int64_t pitch, const uint16_t *rows, int n, vec *sum) {
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) sum[j] = (vec){0};
    for (int begin = 0; begin < n; begin += MOST_ADDED) {
        const int end = n - begin < MOST_ADDED ? n : begin + MOST_ADDED;
        more_shorts part[BLOCK / 2];
        shorts last = {0};
#pragma GCC unroll 16
        for (int j = 0; j < count / 2; j++) part[j] = (more_shorts){0};
        for (int i = begin; i < end; i++) {
            const int8_t *row = weight + rows[i] * pitch;
#pragma GCC unroll 16
            for (int j = 0; j < count / 2; j++) part[j] += widened(row + 2 * j * WIDTH);
            if (count % 2) last += widened_one(row + (count - 1) * WIDTH);
        }
#pragma GCC unroll 16
        for (int j = 0; j < count / 2; j++) {
            vec low, high;
            to_floats(part[j], &low, &high);
            sum[2 * j] += low;
            sum[2 * j + 1] += high;
        }
        if (count % 2) sum[count - 1] += __builtin_convertvector(__builtin_convertvector(last, ints), vec);
    }
}

/* Sums of the listed rows and the bias, for `count` vectors of channels of one pixel. `factor` has the value of each
 * input, if they are no spikes. */
static inline __attribute__((always_inline)) void add_floats(
    const int count, const int kind, const float *weight, int64_t pitch, const uint16_t *rows, const float *factor,
    int n, const float *bias, vec *total) {
    /* Two sums side by side, of every other row, so that one does not wait for the other. */
    vec sum[BLOCK], other[BLOCK];
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) {
        sum[j] = load(bias + j * WIDTH);
        other[j] = (vec){0};
    }
    int i = 0;
    for (; i + 1 < n; i += 2) {
        const float *row = weight + rows[i] * pitch, *next = weight + rows[i + 1] * pitch;
#pragma GCC unroll 16
        for (int j = 0; j < count; j++) {
            sum[j] += kind == ANALOG ? (vec)(load(row + j * WIDTH) * factor[i]) : load(row + j * WIDTH);
            other[j] += kind == ANALOG ? (vec)(load(next + j * WIDTH) * factor[i + 1]) : load(next + j * WIDTH);
        }
    }
    if (i < n) {
        const float *row = weight + rows[i] * pitch;
#pragma GCC unroll 16
        for (int j = 0; j < count; j++)
            sum[j] += kind == ANALOG ? (vec)(load(row + j * WIDTH) * factor[i]) : load(row + j * WIDTH);
    }
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) total[j] = sum[j] + other[j];
}

/* Adds the listed rows to the bias, leaks, integrates and fires, for `count` vectors of channels of one pixel from
 * channel `first` on, and lists those that fire. `lanes` are those of the last vector that exist. */
static inline __attribute__((always_inline)) uint16_t *integrate(
    const int count, const int kind, const int form, int lanes, int first, const Layer *layer, const uint16_t *rows,
    const float *factor, int n, const float *before, float *after, uint16_t *list) {
    const int64_t pitch = padded(layer->channels);
    const float *bias = layer->bias + first, *keep = layer->keep + first, *scale = layer->scale;
    const float fires_at = layer->fires_at, reset = layer->reset;
    vec total[BLOCK];
    if (form == BYTES) {
        add_bytes(count, (const int8_t *)layer->weight + first, pitch, rows, n, total);
#pragma GCC unroll 16
        for (int j = 0; j < count; j++) total[j] = load(bias + j * WIDTH) + total[j] * load(scale + first + j * WIDTH);
    } else {
        add_floats(count, kind, (const float *)layer->weight + first, pitch, rows, factor, n, bias, total);
    }
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) {
        /* Membranes are read and written once, one after the other; asked for well ahead, they are there in time. */
        __builtin_prefetch(before + j * WIDTH + AHEAD);
        __builtin_prefetch(after + j * WIDTH + AHEAD, 1);
        const int whole = j < count - 1 || lanes == WIDTH;
        const vec v = whole ? load(before + j * WIDTH) : load_some(before + j * WIDTH, lanes);
        const vec h = v * load(keep + j * WIDTH) + total[j];
        vec left = h;
        if (kind != READOUT) {
            list = append_bits(list, at_least(h, fires_at), first + j * WIDTH);
            left = after_spikes(h, fires_at, reset);
        }
        if (whole)
            *(vec *)(after + j * WIDTH) = left;
        else
            memcpy(after + j * WIDTH, &left, (size_t)lanes * sizeof(float));
    }
    return list;
}

static inline __attribute__((always_inline)) uint16_t *integrate_pixel(
    const int kind, const int form, const Layer *layer, const uint16_t *rows, const float *factor, int n,
    const float *before, float *after, uint16_t *list) {
    const int vectors = (layer->channels + WIDTH - 1) / WIDTH;
    for (int begin = 0; begin < vectors; begin += BLOCK) {
        const int count = vectors - begin < BLOCK ? vectors - begin : BLOCK;
        const int first = begin * WIDTH;
        const int last = layer->channels - (begin + count - 1) * WIDTH;
        const int lanes = last < WIDTH ? last : WIDTH;
#define CASE(k)                                                                                                       \
    case k:                                                                                                           \
        list = integrate(k, kind, form, lanes, first, layer, rows, factor, n, before + first, after + first, list);   \
        break;
        switch (count) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if BLOCK > 6
            CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
        }
#undef CASE
    }
    return list;
}

/* The taps [from, to) along one axis that fall inside the input. */
static inline void inside(int out, int stride, int dilation, int padding, int kernel, int size, int *from, int *to) {
    const int first = out * stride - padding;
    *from = first < 0 ? (-first + dilation - 1) / dilation : 0;
    *to = first < size ? (size - 1 - first) / dilation + 1 : 0;
    if (*to > kernel) *to = kernel;
}

#define MOST_KERNEL 8

/* One line of spikes that a line of the output reads with one row of the kernel. */
typedef struct {
    const uint16_t *list;
    const uint32_t *starts;
    int32_t shift;
    uint16_t base; /* row of the weights of its first channel, at the left tap */
} Line;

static inline __attribute__((always_inline)) void spiking_row(
    const int kind, const int form, const Layer *layer, const Layer *layers, const Slot *slots, Slot *slot, int y,
    uint16_t *rows) {
    Line lines[MOST_KERNEL * MOST_PARTS];
    int line_count = 0, from, to;
    inside(y, layer->stride, layer->dilation, layer->padding, layer->kernel, layer->in_height, &from, &to);
    for (int ky = from; ky < to; ky++) {
        const int iy = y * layer->stride - layer->padding + ky * layer->dilation;
        int base = ky * layer->kernel * layer->in_channels;
        for (int p = 0; p < layer->parts; p++) {
            const Part *part = &layer->part[p];
            const Layer *source = &layers[part->layer];
            const Slot *read = &slots[part->layer];
            const int64_t at = iy >> part->shift;
            lines[line_count++] = (Line){read->lists + at * list_pitch(source),
                                         read->starts + at * (source->width + 1), part->shift, (uint16_t)base};
            base += part->channels;
        }
    }
    const int parts = layer->parts;
    uint16_t *const begin = kind == READOUT ? NULL : slot->lists + y * list_pitch(layer), *list = begin;
    uint32_t *starts = kind == READOUT ? NULL : slot->starts + (int64_t)y * (layer->width + 1);
    for (int x = 0; x < layer->width; x++) {
        inside(x, layer->stride, layer->dilation, layer->padding, layer->kernel, layer->in_width, &from, &to);
        const int left = x * layer->stride - layer->padding;
        uint16_t *end = rows;
        for (int l = 0; l < line_count; l += parts)
            for (int kx = from; kx < to; kx++) {
                const int ix = left + kx * layer->dilation;
                for (int p = l; p < l + parts; p++) {
                    const uint32_t *start = lines[p].starts + (ix >> lines[p].shift);
                    const uint16_t base = (uint16_t)(lines[p].base + kx * layer->in_channels);
                    end = append(end, lines[p].list + start[0], start[1] - start[0], base);
                }
            }
        const int64_t at = ((int64_t)y * layer->width + x) * layer->channels;
        if (kind != READOUT) starts[x] = (uint32_t)(list - begin);
        list = integrate_pixel(kind, form, layer, rows, NULL, (int)(end - rows), slot->before + at, slot->after + at,
                               list);
    }
    if (kind == READOUT) return;
    starts[layer->width] = (uint32_t)(list - begin);
    __atomic_fetch_add(&slot->spikes, list - begin, __ATOMIC_RELAXED);
}

/* The active inputs of a pixel, all taps and channels of them, fit one word: at bit (ky, kx, channel). */
static void analog_row(const Layer *layer, const Input *input, Slot *slot, int y, uint16_t *rows) {
    const int channels = layer->in_channels, kernel = layer->kernel, seen = kernel * channels;
    const uint64_t mask = (1ull << seen) - 1;
    int32_t offset[64];
    float factor[64];
    for (int ky = 0; ky < kernel; ky++)
        for (int k = 0; k < seen; k++) offset[ky * seen + k] = ky * layer->in_width * channels + k;
    const int64_t top = (int64_t)y * layer->stride;
    const uint8_t *active = input->active + top * input->active_pitch;
    const float *values = input->values + (top - layer->padding) * layer->in_width * channels;
    uint16_t *const begin = slot->lists + y * list_pitch(layer), *list = begin;
    uint32_t *starts = slot->starts + (int64_t)y * (layer->width + 1);
    for (int x = 0; x < layer->width; x++) {
        const int64_t left = ((int64_t)x * layer->stride - layer->padding) * channels;
        const int64_t bit = left + PAD_BITS;
        uint64_t found = 0;
        for (int ky = kernel - 1; ky >= 0; ky--) {
            uint64_t line;
            memcpy(&line, active + ky * input->active_pitch + bit / 8, 8);
            found = found << seen | (line >> bit % 8 & mask);
        }
        int n = 0;
        for (; found; found &= found - 1) {
            const int at = __builtin_ctzll(found);
            rows[n] = (uint16_t)at;
            factor[n++] = values[left + offset[at]];
        }
        const int64_t at = ((int64_t)y * layer->width + x) * layer->channels;
        starts[x] = (uint32_t)(list - begin);
        list = integrate_pixel(ANALOG, FLOATS, layer, rows, factor, n, slot->before + at, slot->after + at, list);
    }
    starts[layer->width] = (uint32_t)(list - begin);
    __atomic_fetch_add(&slot->spikes, list - begin, __ATOMIC_RELAXED);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Lines of one layer, one after the other over the batch. */
static void compute(const Run *run, int l, int64_t begin, int64_t end, uint16_t *rows) {
    const Layer *layer = &run->layers[l];
    for (int64_t line = begin; line < end; line++) {
        const int64_t b = line / layer->height;
        const int y = (int)(line % layer->height);
        Slot *slots = run->slots + b * run->layer_count;
        if (layer->kind == ANALOG)
            analog_row(layer, &run->inputs[b], &slots[l], y, rows);
        else if (layer->kind == SPIKING && layer->form == BYTES)
            spiking_row(SPIKING, BYTES, layer, run->layers, slots, &slots[l], y, rows);
        else if (layer->kind == SPIKING)
            spiking_row(SPIKING, FLOATS, layer, run->layers, slots, &slots[l], y, rows);
        else if (layer->form == BYTES)
            spiking_row(READOUT, BYTES, layer, run->layers, slots, &slots[l], y, rows);
        else
            spiking_row(READOUT, FLOATS, layer, run->layers, slots, &slots[l], y, rows);
    }
}

/* Every thread takes lines of the layer until none is left, then waits for those that others are at. A thread that comes
 * late finds the work done, and nobody waits for it. */
static void work(Run *run, uint16_t *rows, int64_t *nanoseconds) {
    for (int l = run->first; l < run->end; l++) {
        const int64_t begun = nanoseconds ? now() : 0, total = run->total[l];
        const int64_t chunk = run->threads == 1 ? total : total / (8 * run->threads) + 1;
        for (;;) {
            const int64_t begin = __atomic_fetch_add(&run->next[l], chunk, __ATOMIC_RELAXED);
            if (begin >= total) break;
            const int64_t end = begin + chunk < total ? begin + chunk : total;
            compute(run, l, begin, end, rows);
            __atomic_fetch_add(&run->done[l], end - begin, __ATOMIC_RELEASE);
        }
        for (int spins = 0; __atomic_load_n(&run->done[l], __ATOMIC_ACQUIRE) < total; spins++)
            if (spins > 1000) sched_yield();
        if (nanoseconds) nanoseconds[l] = now() - begun;
    }
}

static uint16_t *room_for_rows(const Run *run) { return malloc((size_t)(run->most_rows + LIST_PAD) * sizeof(uint16_t)); }

static void leave(Run *run) {
    if (__atomic_sub_fetch(&run->references, 1, __ATOMIC_ACQ_REL) == 0) free(run);
}

static void *help(void *argument) {
    Run *run = argument;
    uint16_t *rows = room_for_rows(run);
    if (rows != NULL) work(run, rows, NULL);
    free(rows);
    leave(run);
    return NULL;
}

/* Advance `batch` rows by one step on so many threads: the layers [first, end), those before them having fired.
 * What each layer took goes to `nanoseconds`, unless that is NULL. 0, or -1 without memory. */
int32_t spikeseg_step(const Layer *layers, int32_t first, int32_t end, int32_t layer_count, Slot *slots,
                      const Input *inputs, int32_t batch, int32_t threads, int64_t *nanoseconds) {
    Run *run = calloc(1, sizeof(Run));
    if (run == NULL) return -1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    *run = (Run){.layers = layers, .slots = slots, .inputs = inputs, .first = first, .end = end,
                 .layer_count = layer_count, .threads = threads, .references = 1};
    for (int l = 0; l < layer_count; l++) {
        const int64_t rows = (int64_t)layers[l].kernel * layers[l].kernel * layers[l].in_channels;
        if (rows > run->most_rows) run->most_rows = rows;
        run->total[l] = (int64_t)batch * layers[l].height;
    }
    uint16_t *rows = room_for_rows(run);
    if (rows == NULL) {
        free(run);
        return -1;
    }
    pthread_attr_t detached;
    if (threads > 1 && pthread_attr_init(&detached) == 0) {
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        for (int k = 1; k < threads; k++) {
            pthread_t helper;
            __atomic_fetch_add(&run->references, 1, __ATOMIC_RELAXED);
            if (pthread_create(&helper, &detached, help, run) != 0) {
                leave(run);
                break;
            }
        }
        pthread_attr_destroy(&detached);
    }
    work(run, rows, nanoseconds);
    free(rows);
    leave(run);
    return 0;
}

/* The lists of spikes (height, width, channels), each 0.0 or 1.0; gives how many there are. */
int64_t spikeseg_list_spikes(const float *spikes, int32_t height, int32_t width, int32_t channels, uint16_t *lists,
                             uint32_t *starts) {
    int64_t total = 0;
    for (int y = 0; y < height; y++) {
        uint16_t *const begin = lists + y * ((int64_t)width * channels + LIST_PAD), *list = begin;
        uint32_t *start = starts + (int64_t)y * (width + 1);
        for (int x = 0; x < width; x++, spikes += channels) {
            start[x] = (uint32_t)(list - begin);
            int c = 0;
            for (; c + WIDTH <= channels; c += WIDTH) list = append_bits(list, at_least(load(spikes + c), 1.0f), c);
            if (c < channels) list = append_bits(list, at_least(load_some(spikes + c, channels - c), 1.0f), c);
        }
        start[width] = (uint32_t)(list - begin);
        total += list - begin;
    }
    return total;
}

/* Spikes (height, width, channels), which begin as zeros, from their lists. */
void spikeseg_unlist_spikes(const uint16_t *lists, const uint32_t *starts, int32_t height, int32_t width,
                            int32_t channels, float *spikes) {
    for (int y = 0; y < height; y++) {
        const uint16_t *list = lists + y * ((int64_t)width * channels + LIST_PAD);
        const uint32_t *start = starts + (int64_t)y * (width + 1);
        for (int x = 0; x < width; x++, spikes += channels)
            for (uint32_t i = start[x]; i < start[x + 1]; i++) spikes[list[i]] = 1.0f;
    }
}

/* Values (channels, height, width) to an Input, whose map begins as zeros; gives how many are not zero. */
int64_t spikeseg_pack_input(const float *x, int32_t channels, int32_t height, int32_t width, int32_t padding,
                            float *values, uint8_t *active, int64_t active_pitch) {
    int64_t total = 0;
    for (int y = 0; y < height; y++) {
        uint8_t *row = active + (y + padding) * active_pitch + PAD_BITS / 8;
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

/* Count the events of a window in each cell, as models.encoding.polarity_counts does, into an Input that begins as
 * zeros. The number of counts that are not zero, or -1 if an event lies outside the sensor. */
int64_t spikeseg_count_events(const uint16_t *x, const uint16_t *y, const uint8_t *p, int64_t events, int32_t factor,
                              int32_t sensor_height, int32_t sensor_width, int32_t width, int32_t padding, float clip,
                              float *values, uint8_t *active, int64_t active_pitch) {
    int64_t total = 0;
    for (int64_t i = 0; i < events; i++) {
        if (x[i] >= sensor_width || y[i] >= sensor_height) return -1;
        const uint32_t row = factor == 1 ? y[i] : y[i] / (uint32_t)factor;
        const uint32_t column = factor == 1 ? x[i] : x[i] / (uint32_t)factor;
        const uint32_t bit = 2 * column + (p[i] != 0);
        float *value = values + (int64_t)row * width * 2 + bit;
        total += *value == 0.0f;
        *value += *value < clip ? 1.0f : 0.0f;
        active[(row + (uint32_t)padding) * active_pitch + PAD_BITS / 8 + bit / 8] |= (uint8_t)(1u << bit % 8);
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
            const size_t side = (size_t)scale * sizeof(float);
            const int whole = width / scale;
            if (scale == 2)
                for (int cell = 0; cell < whole; cell++) memcpy(to + 2 * cell, from + cell * channels, 2 * sizeof(float));
            else
                for (int cell = 0; cell < whole; cell++) memcpy(to + cell * scale, from + cell * channels, side);
            for (int x = whole * scale; x < width; x++) to[x] = from[whole * channels + x % scale];
        }
}

/* Class ids (height, width) from logits (classes, rows, columns), bilinear between the cells' centres; the lowest class
 * of equals. Pixels at the same place in their cells share their weights: they are done together, and put side by side
 * at the end. 0, or -1 without memory. */
int32_t spikeseg_mask(const float *logits, int32_t classes, int32_t rows, int32_t columns, int32_t stride,
                      int32_t height, int32_t width, uint8_t *mask) {
    float *lines = malloc(sizeof(float) * (size_t)(classes + 1) * (size_t)(columns + 2));
    const size_t cells = (size_t)(uint32_t)columns;
    int32_t *ids = malloc(cells * sizeof(int32_t));
    if (lines == NULL || ids == NULL) {
        free(lines);
        free(ids);
        return -1;
    }
    float *best = lines + (int64_t)classes * (columns + 2);
    const float scale = 1.0f / (float)stride;
    for (int y = 0; y < height; y++) {
        float at = ((float)y + 0.5f) * scale - 0.5f;
        if (at < 0.0f) at = 0.0f;
        const int above = (int)at, below = above + (above < rows - 1);
        const float low = at - (float)above, high = 1.0f - low;
        for (int c = 0; c < classes; c++) {
            const float *a = logits + ((int64_t)c * rows + above) * columns;
            const float *b = logits + ((int64_t)c * rows + below) * columns;
            /* A cell more at both ends: beyond the outermost centres nothing changes. */
            float *line = lines + (int64_t)c * (columns + 2);
            for (int x = 0; x < columns; x++) line[x + 1] = high * a[x] + low * b[x];
            line[0] = line[1];
            line[columns + 1] = line[columns];
        }
        for (int phase = 0; phase < stride; phase++) {
            const float place = ((float)phase + 0.5f) * scale - 0.5f;
            const int first = place < 0.0f ? 0 : 1;
            const float right = place < 0.0f ? place + 1.0f : place, left = 1.0f - right;
            for (int x = 0; x < columns; x++) best[x] = left * lines[first + x] + right * lines[first + x + 1];
            memset(ids, 0, cells * sizeof(int32_t));
            for (int c = 1; c < classes; c++) {
                const float *line = lines + (int64_t)c * (columns + 2) + first;
                for (int x = 0; x < columns; x++) {
                    const float value = left * line[x] + right * line[x + 1];
                    ids[x] = value > best[x] ? c : ids[x];
                    best[x] = value > best[x] ? value : best[x];
                }
            }
            uint8_t *to = mask + (int64_t)y * width;
            for (int x = phase, cell = 0; x < width; x += stride, cell++) to[x] = (uint8_t)ids[cell];
        }
    }
    free(lines);
    free(ids);
    return 0;
}
