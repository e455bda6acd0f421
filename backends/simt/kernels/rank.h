// The order of elements: largest first, NaN before all, of equal ones the lowest index. A place is a 64-bit number that
// is larger for an element that comes earlier.

FN ulong place_of(float x, i64 index) {
    const uint bits = x == 0.0f ? 0u : AS_UINT(x);
    const uint key = IS_NAN(x) ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;
    return (ulong)key << 32 | (0xffffffffu - (uint)index);
}

FN i64 index_of(ulong place) { return (i64)(0xffffffffu - (uint)place); }

// The largest place of the group; 0 when there is none.
FN ulong group_first(ulong place, LOCAL_PTR ulong *scratch) {
    const int item = ITEM;
    scratch[item] = place;
    BARRIER;
    for (int n = GROUP / 2; n > 0; n >>= 1) {
        if (item < n && scratch[item + n] > scratch[item]) scratch[item] = scratch[item + n];
        BARRIER;
    }
    place = scratch[0];
    BARRIER;
    return place;
}
