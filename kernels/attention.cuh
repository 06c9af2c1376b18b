// What the kernels of attention over packed documents share: which rows see each other, items of work, the ring of tiles.
#pragma once
#include "tile.cuh"

// The first row that query row `i` sees.
__device__ __forceinline__ u32 first_visible(u32 i, u32 document, u32 window) {
    return i - document < window ? document : i + 1 - window;
}

#if ARCH >= 90

// The number of this block's `round`-th item: back and forth over the list, whose heaviest items come first, so that every
// block gets heavy and light ones.
__device__ __forceinline__ u32 item_of(u32 round) {
    return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

// An item: up to 128 queries of one head, and the keys that any of them sees, in tiles of SPAN.
template <u32 SPAN> struct QueryItem {
    u32 head;
    uint4 block; // first query, end; first and end row of the document
    u32 from, tiles;
    __device__ __forceinline__ QueryItem(const uint4 *blocks, u32 number, u32 heads, u32 window)
        : head(number % heads), block(blocks[number / heads]), from(first_visible(block.x, block.z, window)),
          tiles((block.y - from + SPAN - 1) / SPAN) {}
};

// What a warpgroup has of an item: 64 of its queries, and the tiles that these see, low … high; none if it has no queries.
template <u32 SPAN> struct QueryPart {
    u32 top, bottom, low = 0, high = 0;
    __device__ __forceinline__ QueryPart(const QueryItem<SPAN> &item, u32 group, u32 window)
        : top(item.block.x + 64 * group), bottom(min(item.block.y, top + 64)) {
        if (top >= bottom) return;
        low = (first_visible(top, item.block.z, window) - item.from) / SPAN;
        high = (bottom - 1 - item.from) / SPAN + 1;
    }
    // Whether every query here sees all keys of the tile from `key` on.
    __device__ __forceinline__ bool sees_all(u32 key, u32 window) const {
        return key + SPAN - 1 <= top && bottom - 1 - key < window;
    }
};

// A ring of SIZE slots: a barrier for full, one for empty, each. `n` counts uses.
template <u32 SIZE> struct Ring {
    u32 barriers;
    __device__ u32 full(u32 n) const { return barriers + n % SIZE * 8; }
    __device__ u32 empty(u32 n) const { return barriers + (SIZE + n % SIZE) * 8; }
    __device__ void init(u32 producers, u32 consumers) const {
        for (u32 n = 0; n < SIZE; n++) mbarrier_init(full(n), producers), mbarrier_init(empty(n), consumers);
    }
    __device__ void wait_full(u32 n) const { mbarrier_wait(full(n), n / SIZE & 1); }
    __device__ void wait_empty(u32 n) const { mbarrier_wait(empty(n), n / SIZE & 1 ^ 1); }
};

#endif
