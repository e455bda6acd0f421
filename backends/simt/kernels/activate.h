// Activation functions, numbered as in the planners: 0 none, 1 SiLU, 2 GELU by erf, 3 GELU by tanh, 4 quick GELU.

// x / (1 + exp(-z)) for z of x's sign, by exp(-|z|), which cannot overflow.
FN float times_sigmoid(float x, float z) {
    const float e = EXP(-FABS(z));
    return x * ((z < 0.0f ? e : 1.0f) / (1.0f + e));
}

FN float activate(int act, float x) {
    if (act == 0) return x;
    // -inf * 0 would be NaN; the limit is 0.
    if (x == NEG_INF) return 0.0f;
    if (act == 1) return times_sigmoid(x, x);
    if (act == 2) return 0.5f * x * ERFC(-0.70710678118654752f * x);
    // (1 + tanh z)/2 is the sigmoid of 2z.
    if (act == 3) return times_sigmoid(x, x * FMA(x * x, 0.044715f * 1.5957691216057308f, 1.5957691216057308f));
    return times_sigmoid(x, 1.702f * x);
}
