// What stand-ins for vendors' libraries of products have in common: products in f64 of matrices on the host.

#include <cmath>
#include <initializer_list>

namespace stand_in {

enum Element { F32, F16, BF16 };

static int element_bytes(Element type) { return type == F32 ? 4 : 2; }

static double load_element(Element type, uint64_t base, uint64_t i) {
    if (type == F32) return ((const float *)base)[i];
    const uint16_t half = ((const uint16_t *)base)[i];
    if (type == BF16) {
        const uint32_t bits = (uint32_t)half << 16;
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    const int exponent = half >> 10 & 31, digits = half & 1023;
    const double x = exponent == 31 ? (digits ? NAN : INFINITY) : exponent ? ldexp(1024 + digits, exponent - 25) : ldexp(digits, -24);
    return half & 0x8000 ? -x : x;
}

// To the nearest, half to even, with `digits` bits after the first and exponents from `least` on.
static double round_digits(double x, int digits, int least, double most) {
    if (x == 0 || !std::isfinite(x)) return x;
    const int exponent = std::max(ilogb(x), least);
    const double rounded = ldexp(nearbyint(ldexp(x, digits - exponent)), exponent - digits);
    return std::fabs(rounded) > most ? std::copysign(INFINITY, x) : rounded;
}
static double round_element(Element type, double x) {
    if (type == F16) return round_digits(x, 10, -14, 65504);
    if (type == BF16) return round_digits(x, 7, -126, 3.3895313892515355e38);
    return (float)x;
}
static void store_element(Element type, uint64_t base, uint64_t i, double value) {
    const double x = round_element(type, value);
    const float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    if (type == F32) ((float *)base)[i] = narrow;
    else if (type == BF16) ((uint16_t *)base)[i] = bits >> 16 | (std::isnan(x) ? 0x40 : 0);
    else {
        const uint16_t sign = bits >> 16 & 0x8000;
        uint16_t rest;
        if (std::isnan(x)) rest = 0x7e00;
        else if (std::isinf(x)) rest = 0x7c00;
        else if (std::fabs(x) < ldexp(1, -14)) rest = (uint16_t)ldexp(std::fabs(x), 24);
        else rest = (uint16_t)(((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
        ((uint16_t *)base)[i] = sign | rest;
    }
}

// Columns of `rows` elements, `stride` elements apart.
struct Matrix {
    Element type;
    uint64_t at, rows, columns;
    int64_t stride;
    double operator()(uint64_t row, uint64_t column) const { return load_element(type, at, column * stride + row); }
    bool usable(const char *who) const {
        return stand_in::usable(at, ((columns - 1) * stride + rows) * element_bytes(type), who);
    }
};

// Queues d = alpha · op(a) · op(b) + beta · c, where op transposes what is `transposed`. Sums are rounded to the type of d at each
// step if they are `narrow`. The scratch memory is written to.
struct Product {
    Matrix a, b, c, d;
    bool transposed_a, transposed_b, narrow;
    double alpha, beta;
    uint64_t scratch;
    size_t scratch_bytes;

    void run() const {
        const char *who = "a product";
        if (!a.usable(who) || !b.usable(who) || !d.usable(who) || (beta != 0 && !c.usable(who))) return;
        if (scratch_bytes && !stand_in::usable(scratch, scratch_bytes, who)) return;
        if (scratch_bytes) memset((void *)scratch, 0xee, scratch_bytes);
        const uint64_t depth = transposed_a ? a.rows : a.columns;
        for (uint64_t column = 0; column < d.columns; column++) {
            for (uint64_t row = 0; row < d.rows; row++) {
                double sum = 0;
                for (uint64_t k = 0; k < depth; k++) {
                    sum += (transposed_a ? a(k, row) : a(row, k)) * (transposed_b ? b(column, k) : b(k, column));
                    if (narrow) sum = round_element(d.type, sum);
                }
                double x = alpha * sum;
                if (beta != 0) x += beta * c(row, column);
                store_element(d.type, d.at, column * d.stride + row, x);
            }
        }
    }
};

} // namespace stand_in
