// Products of wide layers, whose weights no near cache holds: a block of many samples at once, by panels that do stay near.
//
// The right side of a product is laid out once as panels: COLUMNS of its columns, DEPTH of its rows at most, in the order in
// which they are read. A tile of ROWS x COLUMNS sums is kept in registers for the depth of a panel, which stays in the
// nearest cache while tile after tile of the left side passes by (Goto and van de Geijn, ACM TOMS 34(3), 2008; the tile is
// that of BLIS: Van Zee and van de Geijn, ACM TOMS 41(3), 2015).
#pragma once

#include "basics.hpp"

namespace fedps {

#if defined(__AVX512F__)
constexpr int WIDTH = 16, ROWS = 14;  // floats of a register, and rows of a tile: it fills the 32 there are
#else
constexpr int WIDTH = 8, ROWS = 6;  // as it does 16 of AVX2, or 32 of half the width
#endif
constexpr int COLUMNS = 2 * WIDTH;
constexpr int DEPTH = 256;

typedef float Register __attribute__((vector_size(4 * WIDTH), aligned(4)));

constexpr int up(int n, int to) { return (n + to - 1) / to * to; }
constexpr int depth_of(int rows) {  // of panels: in equal parts
  const int parts = (rows + DEPTH - 1) / DEPTH;
  return (rows + parts - 1) / parts;
}

// Lay out b as panels, with zeros behind its last column: [rows / depth][columns / COLUMNS][depth][COLUMNS].
inline void lay_out(const float* b, int64_t by_row, int64_t by_column, int rows, int columns, float* panel) {
  for (int k = 0, depth = depth_of(rows); k < rows; k += depth)
    for (int j = 0; j < columns; j += COLUMNS) {
      const float* from = b + k * by_row + j * by_column;
      const int deep = std::min(depth, rows - k), wide = std::min(COLUMNS, columns - j);
      for (int r = 0; r < deep; ++r, from += by_row, panel += COLUMNS) {
        if (by_column == 1 && wide == COLUMNS) {
          std::memcpy(panel, from, sizeof(float) * COLUMNS);
          continue;
        }
        for (int c = 0; c < COLUMNS; ++c) panel[c] = c < wide ? from[c * by_column] : 0.0f;
      }
    }
}

// y (+)= bias + a b, of ROWS x COLUMNS, of which `rows` x `columns` are wanted; b is a panel.
template <int BY_ROW, int BY_DEPTH>
inline void tile(int depth, const float* a, const float* b, const float* bias, bool adds, float* y, int stride, int rows,
                 int columns) {
  Register sum[ROWS][2] = {};
  for (int k = 0; k < depth; ++k) {
    const Register left = *reinterpret_cast<const Register*>(b + k * COLUMNS);
    const Register right = *reinterpret_cast<const Register*>(b + k * COLUMNS + WIDTH);
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r) {
      const Register one = a[r * BY_ROW + k * BY_DEPTH] - Register{};
      sum[r][0] += one * left;
      sum[r][1] += one * right;
    }
  }
  if (rows == ROWS && columns == COLUMNS) {
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r)
      for (int half = 0; half < 2; ++half) {
        Register* at = reinterpret_cast<Register*>(y + r * stride + half * WIDTH);
        if (bias) sum[r][half] += *reinterpret_cast<const Register*>(bias + half * WIDTH);
        *at = adds ? *at + sum[r][half] : sum[r][half];
      }
    return;
  }
  float edge[ROWS][COLUMNS];
  std::memcpy(edge, sum, sizeof edge);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const float value = edge[r][c] + (bias ? bias[c] : 0.0f);
      y[r * stride + c] = adds ? y[r * stride + c] + value : value;
    }
}

// y[s][0:N] (+)= bias + sum over k < K of x[s][k] w[k][0:N]; w as panels
template <int K, int N, int X, int Y, bool ADD>
void multiply_wide(int samples, const float* x, const float* panel, const float* bias, float* y) {
  constexpr int depth = depth_of(K);
  alignas(64) float rest[ROWS * depth] = {};  // the last samples, as a tile, whose other rows nobody wants
  const int whole = samples / ROWS * ROWS;
  for (int k = 0; k < K; k += depth) {
    const int deep = std::min(depth, K - k);
    const bool adds = ADD || k;
    for (int s = whole; s < samples; ++s) std::memcpy(rest + (s - whole) * depth, x + s * X + k, sizeof(float) * deep);
    for (int j = 0; j < N; j += COLUMNS, panel += deep * COLUMNS) {
      const float* start = bias && !k ? bias + j : nullptr;
      const int columns = std::min(COLUMNS, N - j);
      for (int s = 0; s < whole; s += ROWS)
        tile<X, 1>(deep, x + s * X + k, panel, start, adds, y + s * Y + j, Y, ROWS, columns);
      if (whole < samples)
        tile<depth, 1>(deep, rest, panel, start, adds, y + whole * Y + j, Y, samples - whole, columns);
    }
  }
}

// dw[i][0:N] += sum over samples of a[s][i] b[s][0:N], for i < M; b as panels, a in rows of A floats.
template <int M, int N, int A>
void multiply_wide_transposed(int samples, const float* a, const float* panels, float* dw) {
  alignas(64) float column[DEPTH * ROWS] = {};  // ROWS columns of a, side by side
  for (int s = 0, depth = depth_of(samples); s < samples; s += depth) {
    const int deep = std::min(depth, samples - s);
    for (int i = 0; i < M; i += ROWS) {
      const int rows = std::min(ROWS, M - i);
      for (int k = 0; k < deep; ++k) {
        const float* from = a + (s + k) * A + i;
        if (rows == ROWS) std::memcpy(column + k * ROWS, from, sizeof(float) * ROWS);
        else std::copy(from, from + rows, column + k * ROWS);
      }
      for (int j = 0; j < N; j += COLUMNS)
        tile<1, ROWS>(deep, column, panels + j * deep, nullptr, true, dw + i * N + j, N, rows, std::min(COLUMNS, N - j));
    }
    panels += deep * up(N, COLUMNS);
  }
}

// A `Linear` of many floats on both sides, for so many samples at most.
template <int IN, int OUT, bool TRANSPOSED, int SAMPLES>
struct WideLinear {
  static constexpr int SIDE = TRANSPOSED ? OUT : IN, OTHER = TRANSPOSED ? IN : OUT;  // the weight is kept as [SIDE][OTHER]
  alignas(64) float forward[IN * up(OUT, COLUMNS)];
  alignas(64) float backward[OUT * up(IN, COLUMNS)];
  alignas(64) float bias[up(OUT, COLUMNS)];
  alignas(64) float d_weight[SIDE * padded(OTHER)];
  alignas(64) float d_bias[padded(OUT)];
  alignas(64) float block[SAMPLES * up(OTHER, COLUMNS)];  // of samples, as panels

  // of w the inputs from `start` on, out of `total`
  void begin(const float* w, const float* b, int start = 0, int total = IN) {
    const int64_t by_in = TRANSPOSED ? 1 : OUT, by_out = TRANSPOSED ? total : 1;
    w += start * by_in;
    lay_out(w, by_in, by_out, IN, OUT, forward);
    lay_out(w, by_out, by_in, OUT, IN, backward);
    for (int o = 0; o < OUT; ++o) bias[o] = b ? b[o] : 0.0f;
    std::memset(d_weight, 0, sizeof d_weight);
    std::memset(d_bias, 0, sizeof d_bias);
  }
  template <int X, int Y>
  void apply(int samples, const float* x, float* y) const {
    multiply_wide<IN, padded(OUT), X, Y, false>(samples, x, forward, bias, y);
  }
  template <int X, int Y, bool ADD>
  void back(int samples, const float* x, const float* dy, float* dx) {
    multiply_wide<OUT, padded(IN), Y, X, ADD>(samples, dy, backward, nullptr, dx);
    if (TRANSPOSED) {
      lay_out(x, X, 1, samples, IN, block);
      multiply_wide_transposed<OUT, padded(IN), Y>(samples, dy, block, d_weight);
    } else {
      lay_out(dy, Y, 1, samples, OUT, block);
      multiply_wide_transposed<IN, padded(OUT), X>(samples, x, block, d_weight);
    }
    for (int s = 0; s < samples; ++s)
      for (int o = 0; o < padded(OUT); ++o) d_bias[o] += dy[s * Y + o];
  }
  void end(float* dw, float* db) const {
    for (int i = 0; i < SIDE; ++i)
      for (int j = 0; j < OTHER; ++j) dw[i * OTHER + j] += d_weight[i * padded(OTHER) + j];
    if (db)
      for (int o = 0; o < OUT; ++o) db[o] += d_bias[o];
  }
};

}  // namespace fedps
