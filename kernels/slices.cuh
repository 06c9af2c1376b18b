// How a row of V float is cut among the CLUSTER blocks of a cluster, BLOCK threads each: kernels/sample.cu and
// cross_entropy.cu.  Chosen by src/ops/slices.rs
#pragma once
#include "prelude.cuh"

static const int WIDTH = width_of<float>(V); // elements that move together
static const int VECTORS = V / WIDTH;        // of a row
static const u32 SLICE = (VECTORS + CLUSTER - 1) / CLUSTER * WIDTH; // elements of a block
static const int WARPS = BLOCK / 32;
#if CLUSTER > 1
#define IN_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTERS
#endif
