// How attention's rows are cut into tiles.

// Some rows of one sequence: its tokens are start to end; −1 and `sequences`: tokens before and after all of them; −2: none.
typedef struct {
    int sequence, start, end;
    i64 tile;
} Tile;

// The tile of this number, when each has `tile_rows` rows, and each token `share`; sequences of fewer than `least` tokens have
// none. Starts come from memory: they are kept ascending and within the tokens.
FN Tile find_tile(i64 number, GLOBAL const uchar *q_start, int sequences, int tokens, int share, int tile_rows, int least) {
    Tile found;
    found.sequence = -2;
    found.start = found.end = 0;
    found.tile = 0;
    int at = 0;
    for (int s = -1; s <= sequences && found.sequence == -2; s++) {
        const int next = s < sequences ? max_int(at, min_int(INTS(q_start)[s + 1], tokens)) : tokens;
        const int few = s >= 0 && s < sequences && next - at < least;
        const i64 tiles = few ? 0 : ((i64)(next - at) * share + tile_rows - 1) / tile_rows;
        if (number < tiles) {
            found.sequence = s;
            found.start = at;
            found.end = next;
            found.tile = number;
        }
        number -= tiles;
        at = next;
    }
    return found;
}
