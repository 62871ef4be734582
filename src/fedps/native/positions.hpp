// Values with positions: L rows a sample, those of a sequence's ids from the first on, then those of its padding.
#pragma once

#include "losses.hpp"
#include "rows.hpp"

namespace fedps {

// y = the rows of a sample's ids, then zeros
template <int DIM, int L, int Y>
void look_up_each(const Table& table, const Feature& feature, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s) {
    const int64_t begin = feature.starts[order[s]], end = feature.starts[order[s] + 1];
    for (int64_t k = begin; k < begin + L; ++k, y += Y) {
      if (k < end) std::memcpy(y, table.block + static_cast<int64_t>(feature.slots[k]) * table.width, sizeof(float) * DIM);
      else std::memset(y, 0, sizeof(float) * DIM);
    }
  }
}
template <int DIM, int L, int Y>
void look_up_each_back(Table& table, const Places& places, int64_t from, int samples, const float* dy) {
  for (int64_t i = from; i < from + samples; ++i, dy += L * Y) {
    const int64_t begin = places.first[i], end = std::min(begin + L, places.end(i));
    for (int64_t k = begin; k < end; ++k) {
      float* g = table.gradient + static_cast<int64_t>(places.at[k]) * DIM;
      for (int j = 0; j < DIM; ++j) g[j] += dy[(k - begin) * Y + j];
    }
  }
}

template <int L, int Y>
void present(const Feature& feature, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s) {
    const int64_t count = feature.starts[order[s] + 1] - feature.starts[order[s]];
    for (int l = 0; l < L; ++l, y += Y) *y = l < count ? 1.0f : 0.0f;
  }
}

template <int W, int L, int A, int Y>
void repeat(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s, a += A)
    for (int l = 0; l < L; ++l, y += Y)
      for (int j = 0; j < W; ++j) y[j] = a[j];
}

// y (+)= the sum of a over a sample's positions; the gradient of a repeated value is made so, too
template <int W, int L, int A, int Y, bool ADD>
void total(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s, a += L * A, y += Y) {
    float sum[W];
    for (int j = 0; j < W; ++j) sum[j] = ADD ? y[j] : 0.0f;
    for (int l = 0; l < L; ++l)
      for (int j = 0; j < W; ++j) sum[j] += a[l * A + j];
    for (int j = 0; j < W; ++j) y[j] = sum[j];
  }
}
template <int W, int L, int A, int Y, bool ADD>
void total_back(int samples, const float* dy, float* da) {
  for (int s = 0; s < samples; ++s, dy += Y)
    for (int l = 0; l < L; ++l, da += A)
      for (int j = 0; j < W; ++j) da[j] = ADD ? da[j] + dy[j] : dy[j];
}

template <int W, int L, int A, int Y>
void softmax(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s, a += L * A, y += L * Y)
    for (int j = 0; j < W; ++j) {
      float most = a[j], sum = 0;
      for (int l = 1; l < L; ++l) most = std::max(most, a[l * A + j]);
      for (int l = 0; l < L; ++l) sum += y[l * Y + j] = exp_of_negative(a[l * A + j] - most);
      for (int l = 0; l < L; ++l) y[l * Y + j] /= sum;
    }
}
template <int W, int L, int A, int Y, bool ADD>
void softmax_back(int samples, const float* y, const float* dy, float* da) {
  for (int s = 0; s < samples; ++s, y += L * Y, dy += L * Y, da += L * A)
    for (int j = 0; j < W; ++j) {
      float mean = 0;
      for (int l = 0; l < L; ++l) mean += y[l * Y + j] * dy[l * Y + j];
      for (int l = 0; l < L; ++l) {
        const float d = y[l * Y + j] * (dy[l * Y + j] - mean);
        da[l * A + j] = ADD ? da[l * A + j] + d : d;
      }
    }
}

}  // namespace fedps
