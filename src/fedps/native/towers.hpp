// The loss of two towers: each query's own item is told from all items of the batch, so that blocks are no more by themselves.
#pragma once

#include "layers.hpp"
#include "losses.hpp"

namespace fedps {

// Rows of a whole batch, D floats apart, in tiles of BLOCK; those behind the last one are zeros.
template <int D>
struct InBatch {
  static constexpr int TURNED = D * BLOCK, SQUARE = BLOCK * BLOCK;
  std::vector<float> queries, items, d_queries, d_items;
  std::vector<float> turned;  // [tiles][D][BLOCK]: items
  std::vector<float> bias;    // of an item's logits: less the logarithm of how often it occurs
  std::vector<float> logits;  // [tiles][BLOCK][BLOCK]: of a tile of queries with all items; then their derivatives
  std::vector<int32_t> slots; // of the items
  std::vector<float> weights; // of the queries
  int64_t tiles = 0;

  void begin(const Call& c, const Feature* ids, const int32_t* order, int64_t n) {
    tiles = (n + BLOCK - 1) / BLOCK;
    for (auto* rows : {&queries, &items, &d_queries, &d_items}) rows->assign(tiles * BLOCK * D, 0.0f);
    turned.resize(tiles * TURNED), logits.resize(tiles * SQUARE);
    bias.assign(tiles * BLOCK, -INFINITY), slots.assign(tiles * BLOCK, -1), weights.assign(tiles * BLOCK, 0.0f);
    float total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float label = c.label[order[i]];
      total += weights[i] = std::isnan(label) ? 1.0f : label;
      slots[i] = ids ? ids->slots[order[i]] : -1;
      bias[i] = ids ? -c.log_q[slots[i]] : 0.0f;
    }
    for (float& weight : weights) weight /= std::max(total, 1.0f);
  }

  // Return the loss, and leave the derivatives by `queries` and `items`.
  double train(int64_t n) {
    for (int64_t k = 0; k < tiles; ++k)
      for (int s = 0; s < BLOCK; ++s)
        for (int j = 0; j < D; ++j) turned[k * TURNED + j * BLOCK + s] = items[(k * BLOCK + s) * D + j];
    double loss = 0;
    for (int64_t q = 0; q < n; q += BLOCK) {
      const float* own = queries.data() + q * D;
      for (int64_t k = 0; k < tiles; ++k)
        multiply<D, BLOCK, D, BLOCK, false>(BLOCK, own, &turned[k * TURNED], &bias[k * BLOCK], &logits[k * SQUARE]);
      for (int64_t s = 0; s < BLOCK && q + s < n; ++s) loss += softmax(q, s);
      for (int64_t s = n - q; s < BLOCK; ++s)
        for (int64_t k = 0; k < tiles; ++k) std::memset(&logits[k * SQUARE + s * BLOCK], 0, sizeof(float) * BLOCK);
      for (int64_t k = 0; k < tiles; ++k) {
        multiply<BLOCK, D, BLOCK, D, true>(BLOCK, &logits[k * SQUARE], &items[k * BLOCK * D], nullptr, &d_queries[q * D]);
        multiply_transposed<BLOCK, D, BLOCK, D>(BLOCK, &logits[k * SQUARE], own, &d_items[k * BLOCK * D]);
      }
    }
    return loss;
  }

 private:
  // Return the loss of one query, and put the derivatives by its logits in their place.
  double softmax(int64_t tile, int64_t s) {
    const int32_t slot = slots[tile + s];
    const float share = weights[tile + s], mine = logits[tile * BLOCK + s * BLOCK + s];
    float most = mine, sum = 0;
    for (int64_t k = 0; k < tiles; ++k) {
      float* x = &logits[k * SQUARE + s * BLOCK];
      const int32_t* its = &slots[k * BLOCK];
      for (int j = 0; j < BLOCK; ++j) x[j] = its[j] == slot && slot >= 0 ? -INFINITY : x[j];  // found elsewhere, it is no negative
      for (int j = 0; j < BLOCK; ++j) most = std::max(most, x[j]);
    }
    logits[tile * BLOCK + s * BLOCK + s] = mine;
    for (int64_t k = 0; k < tiles; ++k) {
      float* x = &logits[k * SQUARE + s * BLOCK];
      for (int j = 0; j < BLOCK; ++j) x[j] = x[j] == -INFINITY ? 0.0f : exp_of_negative(x[j] - most);
      for (int j = 0; j < BLOCK; ++j) sum += x[j];
    }
    for (int64_t k = 0; k < tiles; ++k) {
      float* x = &logits[k * SQUARE + s * BLOCK];
      for (int j = 0; j < BLOCK; ++j) x[j] *= share / sum;
    }
    logits[tile * BLOCK + s * BLOCK + s] -= share;
    return share > 0 ? static_cast<double>(share) * (most - mine + std::log(sum)) : 0.0;
  }
};

}  // namespace fedps
