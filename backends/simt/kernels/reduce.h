// Reductions over a group. Every work-item calls them, gives its part, and receives the result; `scratch` has GROUP
// elements and may be reused on return. By waves where the device has them, by a tree in local memory elsewhere.

FN float group_sum(float x, LOCAL_PTR float *scratch) {
#ifdef WAVE_SUM
    x = WAVE_SUM(x);
    if (WAVE_ITEM == 0) scratch[WAVE_ID] = x;
    BARRIER;
    x = 0.0f;
    for (int i = 0; i < WAVES; i++) x += scratch[i];
    BARRIER;
    return x;
#else
    const int item = ITEM;
    scratch[item] = x;
    BARRIER;
    for (int n = GROUP / 2; n > 0; n >>= 1) {
        if (item < n) scratch[item] += scratch[item + n];
        BARRIER;
    }
    x = scratch[0];
    BARRIER;
    return x;
#endif
}

// The largest; a NaN wins.
FN float group_max(float x, LOCAL_PTR float *scratch) {
    const int item = ITEM;
    scratch[item] = x;
    BARRIER;
    for (int n = GROUP / 2; n > 0; n >>= 1) {
        if (item < n) scratch[item] = max_nan(scratch[item], scratch[item + n]);
        BARRIER;
    }
    x = scratch[0];
    BARRIER;
    return x;
}
