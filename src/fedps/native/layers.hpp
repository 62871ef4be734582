// Layers and functions of a network: products of blocks of samples, values component by component, and their derivatives.
#pragma once

#include "basics.hpp"

namespace fedps {

// y[s][0:N] (+)= bias + sum over k < K of x[s][k] w[k][0:N]
template <int K, int N, int X, int Y, bool ADD>
void multiply(int samples, const float* x, const float* w, const float* bias, float* y) {
  constexpr int C = vectors_at_once(N / LANES);
  for (int j = 0; j < N; j += C * LANES) {  // these columns of w stay in a near cache for all samples
    for (int s = 0; s < samples; s += TILE) {
      Vector sum[TILE][C];
      for (int r = 0; r < TILE; ++r)
        for (int c = 0; c < C; ++c) {
          sum[r][c] = bias ? load(bias + j + c * LANES) : all(0);
          if (ADD) sum[r][c] += load(y + (s + r) * Y + j + c * LANES);
        }
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k)
        for (int r = 0; r < TILE; ++r) {
          const Vector one = all(x[(s + r) * X + k]);
          for (int c = 0; c < C; ++c) sum[r][c] += one * load(w + k * N + j + c * LANES);
        }
      for (int r = 0; r < TILE; ++r)
        for (int c = 0; c < C; ++c) store(y + (s + r) * Y + j + c * LANES, sum[r][c]);
    }
  }
}

// dw[k][0:N] += sum over samples of x[s][k] dy[s][0:N]; K rows, of which TILE at a time
template <int K, int N, int X, int Y>
void multiply_transposed(int samples, const float* x, const float* dy, float* dw) {
  constexpr int C = vectors_at_once(N / LANES);
  for (int k = 0; k < K; k += TILE)
    for (int j = 0; j < N; j += C * LANES) {
      Vector sum[TILE][C] = {};
      for (int s = 0; s < samples; ++s)
        for (int r = 0; r < TILE; ++r) {
          const Vector one = all(x[s * X + k + r]);
          for (int c = 0; c < C; ++c) sum[r][c] += one * load(dy + s * Y + j + c * LANES);
        }
      for (int r = 0; r < TILE && k + r < K; ++r)
        for (int c = 0; c < C; ++c) {
          float* at = dw + (k + r) * N + j + c * LANES;
          store(at, load(at) + sum[r][c]);
        }
    }
}

// One layer y = x w + b; TRANSPOSED: the weight is kept as [OUT][IN], as torch does, else as [IN][OUT].
template <int IN, int OUT, bool TRANSPOSED>
struct Linear {
  alignas(64) float forward[IN * padded(OUT)];
  alignas(64) float backward[OUT * padded(IN)];
  alignas(64) float bias[padded(OUT)];
  alignas(64) float d_forward[IN * padded(OUT)];
  alignas(64) float d_bias[padded(OUT)];

  // of w the inputs from `start` on, out of `total`
  void begin(const float* w, const float* b, int start = 0, int total = IN) {
    for (int o = 0; o < OUT; ++o)
      for (int i = 0; i < IN; ++i)
        forward[i * padded(OUT) + o] = backward[o * padded(IN) + i] = w[TRANSPOSED ? o * total + start + i : (start + i) * OUT + o];
    for (int o = 0; o < OUT; ++o) bias[o] = b ? b[o] : 0.0f;
    std::memset(d_forward, 0, sizeof d_forward);
    std::memset(d_bias, 0, sizeof d_bias);
  }
  template <int X, int Y>
  void apply(int samples, const float* x, float* y) const {
    multiply<IN, padded(OUT), X, Y, false>(samples, x, forward, bias, y);
  }
  template <int X, int Y, bool ADD>
  void back(int samples, const float* x, const float* dy, float* dx) {
    multiply<OUT, padded(IN), Y, X, ADD>(samples, dy, backward, nullptr, dx);
    multiply_transposed<IN, padded(OUT), X, Y>(samples, x, dy, d_forward);
    for (int s = 0; s < samples; ++s)
      for (int o = 0; o < padded(OUT); ++o) d_bias[o] += dy[s * Y + o];
  }
  void end(float* dw, float* db) const {
    for (int o = 0; o < OUT; ++o)
      for (int i = 0; i < IN; ++i) dw[TRANSPOSED ? o * IN + i : i * OUT + o] += d_forward[i * padded(OUT) + o];
    if (db)
      for (int o = 0; o < OUT; ++o) db[o] += d_bias[o];
  }
};

template <int W, int A, int Y, class F>
void map(int samples, const float* a, float* y, F f) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) y[s * Y + j] = f(a[s * A + j]);
}

// da (+)= dy · f(a, y), f being the derivative
template <int W, int A, int Y, bool ADD, class F>
void map_back(int samples, const float* a, const float* y, const float* dy, float* da, F f) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) {
      const float d = dy[s * Y + j] * f(a[s * A + j], y[s * Y + j]);
      da[s * A + j] = ADD ? da[s * A + j] + d : d;
    }
}

// y = f(a, b); an operand of one column stands for all columns
template <int W, int WA, int WB, int A, int B, int Y, class F>
void zip(int samples, const float* a, const float* b, float* y, F f) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) y[s * Y + j] = f(a[s * A + (WA == 1 ? 0 : j)], b[s * B + (WB == 1 ? 0 : j)]);
}

// da (+)= dy · f(a, other), f being the derivative by a, summed over columns where a has one
template <int W, int WA, int WB, int A, int B, int Y, bool ADD, class F>
void zip_back(int samples, const float* a, const float* other, const float* dy, float* da, F f) {
  for (int s = 0; s < samples; ++s) {
    if (WA == 1) {
      float d = 0;
      for (int j = 0; j < W; ++j) d += dy[s * Y + j] * f(a[s * A], other[s * B + (WB == 1 ? 0 : j)]);
      da[s * A] = ADD ? da[s * A] + d : d;
    } else {
      for (int j = 0; j < W; ++j) {
        const float d = dy[s * Y + j] * f(a[s * A + j], other[s * B + (WB == 1 ? 0 : j)]);
        da[s * A + j] = ADD ? da[s * A + j] + d : d;
      }
    }
  }
}

template <int W, int A, int Y, bool ADD>
void copy(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) y[s * Y + j] = ADD ? y[s * Y + j] + a[s * A + j] : a[s * A + j];
}

template <int W, int A, int Y>
void sum_columns(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s) {
    float sum = 0;
    for (int j = 0; j < W; ++j) sum += a[s * A + j];
    y[s * Y] = sum;
  }
}

// the same, in another order of the columns, whole vectors of them at once
template <int W, int A, int Y>
void sum_vectors(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s) {
    Vector part = all(0);
    for (int j = 0; j + LANES <= W; j += LANES) part += load(a + s * A + j);
    float sum = 0;
    for (int j = 0; j < LANES; ++j) sum += part[j];
    for (int j = W / LANES * LANES; j < W; ++j) sum += a[s * A + j];
    y[s * Y] = sum;
  }
}

template <int W, int A, int Y, bool ADD>
void sum_columns_back(int samples, const float* dy, float* da) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) da[s * A + j] = (ADD ? da[s * A + j] : 0.0f) + dy[s * Y];
}

// A parameter of W floats (or one for all columns) added to every sample, or multiplied with it.
template <int W, int WP>
struct Column {
  float value[W], gradient[W];

  void begin(const float* p) {
    for (int j = 0; j < W; ++j) value[j] = p[WP == 1 ? 0 : j], gradient[j] = 0;
  }
  void end(float* dp) const {
    for (int j = 0; j < W; ++j) dp[WP == 1 ? 0 : j] += gradient[j];
  }
  template <int A, int Y>
  void add(int samples, const float* a, float* y) const {
    for (int s = 0; s < samples; ++s)
      for (int j = 0; j < W; ++j) y[s * Y + j] = a[s * A + j] + value[j];
  }
  template <int A, int Y, bool ADD>
  void add_back(int samples, const float*, const float* dy, float* da) {
    for (int s = 0; s < samples; ++s)
      for (int j = 0; j < W; ++j) {
        gradient[j] += dy[s * Y + j];
        da[s * A + j] = (ADD ? da[s * A + j] : 0.0f) + dy[s * Y + j];
      }
  }
  template <int A, int Y>
  void scale(int samples, const float* a, float* y) const {
    for (int s = 0; s < samples; ++s)
      for (int j = 0; j < W; ++j) y[s * Y + j] = a[s * A + j] * value[j];
  }
  template <int A, int Y, bool ADD>
  void scale_back(int samples, const float* a, const float* dy, float* da) {
    for (int s = 0; s < samples; ++s)
      for (int j = 0; j < W; ++j) {
        gradient[j] += dy[s * Y + j] * a[s * A + j];
        da[s * A + j] = (ADD ? da[s * A + j] : 0.0f) + dy[s * Y + j] * value[j];
      }
  }
};

}  // namespace fedps
