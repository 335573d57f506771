/* Passes over events at the speed of memory: noise filters, and counts on a network's grid.
 *
 * models/filters.py and models/encoding.py say what is computed and have the same in NumPy, bit for bit. Events come as
 * columns (t i64, x u16, y u16, p u8), ordered by time and inside the sensor. */

#include <stdint.h>
#include <string.h>

typedef int64_t stamps __attribute__((vector_size(32), aligned(8)));

enum { KEPT, HOT_PIXEL, REFRACTORY, BACKGROUND_ACTIVITY };

/* So many events ahead their pixels are fetched: maps of large sensors do not fit the nearest cache. */
enum { AHEAD = 16 };

/* Whether one of the eight neighbours of the pixel at ``at`` has fired after ``limit``. */
static inline int supported(const int64_t *at, int64_t pitch, int64_t limit) {
    const stamps after = {limit, limit, limit, limit};
    stamps above, beside, below;
    /* Three stamps of each line and one that is not looked at: the line is long enough for it. */
    memcpy(&above, at - pitch - 1, sizeof above);
    memcpy(&beside, at - 1, sizeof beside);
    memcpy(&below, at + pitch - 1, sizeof below);
    const stamps line = {-1, -1, -1, 0}, ends = {-1, 0, -1, 0};
    const stamps found = (((above > after) | (below > after)) & line) | ((beside > after) & ends);
    return (found[0] | found[1] | found[2] | found[3]) != 0;
}

/* Filter n events.
 *
 * hot        (height, width): pixels whose events are dropped; NULL if none are.
 * surface    (height + 2, width + 3): when the last event of each pixel came that was not dropped as hot or refractory,
 *            with a margin of one pixel, and of two at the right, that nothing ever writes to; read and written. NULL if
 *            both times are 0, each of which leaves out a filter.
 *
 * Events that pass are put together in out_*, which have room for n; verdict (n) says for each why it was dropped, or 0.
 * How many passed. */
int64_t spikeseg_filter(const int64_t *t, const uint16_t *x, const uint16_t *y, const uint8_t *p, int64_t n,
                        int64_t width, const uint8_t *hot, int64_t *surface, int64_t refractory_us,
                        int64_t background_us, int64_t *out_t, uint16_t *out_x, uint16_t *out_y, uint8_t *out_p,
                        uint8_t *verdict) {
    const int64_t pitch = width + 3;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            const int64_t row = y[i + AHEAD], column = x[i + AHEAD];
            if (hot != NULL) __builtin_prefetch(hot + row * width + column);
            if (surface != NULL) {
                const int64_t *next = surface + (row + 1) * pitch + column;
                __builtin_prefetch(next, 1);
                if (background_us) {
                    __builtin_prefetch(next - pitch);
                    __builtin_prefetch(next + pitch);
                }
            }
        }
        /* Which events are dropped is hard to foresee: everything is computed, and chosen from, without branches. */
        uint8_t why = hot != NULL && hot[y[i] * width + x[i]] ? HOT_PIXEL : KEPT;
        if (surface != NULL) {
            int64_t *at = surface + (y[i] + 1) * pitch + x[i] + 1;
            const int64_t now = t[i], last = *at;
            const uint8_t alone =
                background_us && !supported(at, pitch, now - background_us) ? BACKGROUND_ACTIVITY : KEPT;
            why = why == KEPT && now - last < refractory_us ? REFRACTORY : why;
            *at = why == KEPT ? now : last;
            why = why == KEPT ? alone : why;
        }
        verdict[i] = why;
        out_t[kept] = t[i];
        out_x[kept] = x[i];
        out_y[kept] = y[i];
        out_p[kept] = p[i];
        kept += why == KEPT;
    }
    return kept;
}

/* Count OFF and ON events in cells of factor x factor pixels, up to clip: counts (2, height, width) begin as zeros.
 * 0, or -1 if an event lies outside the sensor. */
int32_t spikeseg_polarity_counts(const uint16_t *x, const uint16_t *y, const uint8_t *p, int64_t n, int32_t factor,
                                 int32_t sensor_width, int32_t sensor_height, int64_t width, int64_t height, float clip,
                                 float *counts) {
    /* Divides every u16 by a u16 exactly, since 2^16 times 2^16 errors do not add up to one (Granlund and Montgomery,
     * "Division by invariant integers using multiplication", PLDI 1994). */
    const uint64_t inverse = (UINT64_C(1) << 32) / (uint64_t)factor + 1;
    const int64_t cells = width * height;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] >= sensor_width || y[i] >= sensor_height) return -1;
        const int64_t column = factor == 1 ? x[i] : (int64_t)(x[i] * inverse >> 32);
        const int64_t row = factor == 1 ? y[i] : (int64_t)(y[i] * inverse >> 32);
        float *count = counts + (p[i] != 0) * cells + row * width + column;
        *count += *count < clip ? 1.0f : 0.0f;
    }
    return 0;
}
