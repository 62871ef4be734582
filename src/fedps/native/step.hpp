// A training step as loops over small blocks of samples. The generated file (see source.py) includes this one and says,
// in the order of the network's operations, which of these to call with which sizes; all sizes but the number of
// samples are known when it is compiled.
//
// A value is float[BLOCK * stride]: a row a sample, its columns padded with zeros to whole vectors. Its gradient lies in
// an array of the same form. What stands in rows behind the last sample of a block is never used.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace fedps {

constexpr int LANES = 8;   // floats of a vector
constexpr int BLOCK = 64;  // samples that are worked on at once: what they need stays in the nearest cache
constexpr int TILE = 4;    // rows of a product kept in registers
constexpr int BUCKETS = 4096;  // of a histogram of scores, as in models/metrics.py

#if defined(__AVX512VL__) || defined(__ARM_NEON)
constexpr int MOST_VECTORS = 4;  // of a row of a tile: there are 32 registers
#else
constexpr int MOST_VECTORS = 2;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));

constexpr int padded(int width) { return (width + LANES - 1) / LANES * LANES; }
constexpr int vectors_at_once(int vectors) {
  return vectors % 4 == 0 && MOST_VECTORS >= 4 ? 4 : vectors % 3 == 0 && MOST_VECTORS >= 4 ? 3 : vectors % 2 == 0 ? 2 : 1;
}

inline Vector load(const float* at) { return *reinterpret_cast<const Vector*>(at); }
inline void store(float* at, Vector v) { *reinterpret_cast<Vector*>(at) = v; }
inline Vector all(float x) { return Vector{} + x; }

// Denormals count as zeros while this lives: arithmetic on them is many times slower, and they mean nothing here.
struct FlushDenormals {
#if defined(__SSE2__)
  const unsigned before = __builtin_ia32_stmxcsr();
  FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#else
  FlushDenormals() {}
#endif
};

// ---- What the caller hands over; library.py has the same structures. -------------------------------------------------

struct Rule {
  int64_t name;   // place in `rules.RULES`: add, sgd, adagrad, row_adagrad, lazy_adam, shared_adam, adam
  int64_t here;   // whether rows are changed here; else their gradients are left to the caller
  double lr, beta1, beta2, epsilon, initial_g2, weight_decay;
  const double* tail;      // adam: `rules.momentum_tail`
  const double* powers[3]; // adam: beta1^k, beta2^k, (beta1 / sqrt(beta2))^k
  int64_t last;            // adam: last index of these four
};

struct Table {
  float* block;          // [rows][width]: values, then the state of the rule
  const int32_t* slots;  // each sample's row
  int32_t* seen;         // [rows]: the batch that last saw a row
  int32_t* place;        // [rows]: where its gradient stands then
  int32_t* touched;      // [batch]: the rows of the last batch
  float* gradient;       // [batch][dim]: their gradients
  int64_t rows, width, steps, count;
  Rule rule;
};

struct Dense {
  float* block;     // [size] values, then the state of the rule
  float* gradient;  // [size] of the last batch
  int64_t size, steps;
  Rule rule;
};

struct Call {
  Table* tables;
  Dense* dense;            // two: shared, private
  const int64_t* of;       // for each parameter, which of the two it belongs to
  const int64_t* offset;   // and where it begins there
  const int32_t* order;    // the samples, in the order of training
  int64_t samples, batch, first;  // how many; of a batch; number of the first batch (from 1, for `seen`)
  const float* label;
  const double* rates;     // [batches]: share of `lr` that each batch is trained with
  int64_t pairwise;        // whether samples two by two are pairs: a positive, then a negative
  float* scores;           // [samples]: probabilities (train) or logits (score)
  double* losses;          // [batches]: mean of each
  int64_t* counts;         // [2][BUCKETS]: scores of positives, of negatives
};

// ---- Products. -------------------------------------------------------------------------------------------------------

// y[s][0:N] (+)= bias + sum over k < K of x[s][k] w[k][0:N]
template <int K, int N, int X, int Y, bool ADD>
void multiply(int samples, const float* x, const float* w, const float* bias, float* y) {
  constexpr int C = vectors_at_once(N / LANES);
  for (int s = 0; s < samples; s += TILE) {
    for (int j = 0; j < N; j += C * LANES) {
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

  void begin(const float* w, const float* b) {
    for (int o = 0; o < OUT; ++o)
      for (int i = 0; i < IN; ++i) forward[i * padded(OUT) + o] = backward[o * padded(IN) + i] = w[TRANSPOSED ? o * IN + i : i * OUT + o];
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

// ---- Values sample by sample and component by component. --------------------------------------------------------------

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

// da (+)= dy · f(other), summed over columns where a has one
template <int W, int WA, int WB, int A, int B, int Y, bool ADD, class F>
void zip_back(int samples, const float* other, const float* dy, float* da, F f) {
  for (int s = 0; s < samples; ++s) {
    if (WA == 1) {
      float d = 0;
      for (int j = 0; j < W; ++j) d += dy[s * Y + j] * f(other[s * B + (WB == 1 ? 0 : j)]);
      da[s * A] = ADD ? da[s * A] + d : d;
    } else {
      for (int j = 0; j < W; ++j) {
        const float d = dy[s * Y + j] * f(other[s * B + (WB == 1 ? 0 : j)]);
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

// ---- Rows. -------------------------------------------------------------------------------------------------------------

// Bring a row up to `step` by the moves it missed: `rules.settle`.
template <int DIM>
void settle(const Rule& rule, float* row, int64_t step) {
  const int64_t last = static_cast<int64_t>(row[3 * DIM]), missed = step - last;
  if (last <= 0 || missed <= 0) return;
  const int64_t end = rule.last;
  const double ratio = rule.powers[2][1];
  const double later = rule.powers[2][std::min(missed + 1, end)] * rule.tail[std::min(last + missed + 1, end)];
  const float moves = static_cast<float>(rule.lr * (ratio * rule.tail[std::min(last + 1, end)] - later));
  const float epsilon = static_cast<float>(rule.epsilon * std::sqrt(1 - rule.powers[1][std::min(last, end)]));
  const float fade1 = static_cast<float>(rule.powers[0][std::min(missed, end)]);
  const float fade2 = static_cast<float>(rule.powers[1][std::min(missed, end)]);
  float *w = row, *m = row + DIM, *v = row + 2 * DIM;
  for (int j = 0; j < DIM; ++j) {
    w[j] -= moves * m[j] / (std::sqrt(v[j]) + epsilon);
    m[j] *= fade1;
    v[j] *= fade2;
  }
  row[3 * DIM] = static_cast<float>(step);
}

struct Corrections {
  float rate, second;
  Corrections(const Rule& rule, double step)
      : rate(static_cast<float>(rule.lr / (1 - std::pow(rule.beta1, step)))),
        second(static_cast<float>(1 / (1 - std::pow(rule.beta2, step)))) {}
};

inline void adam(const Rule& rule, Corrections c, int64_t size, float* __restrict w, float* __restrict m,
                 float* __restrict v, const float* __restrict g) {
  const float b1 = static_cast<float>(rule.beta1), b2 = static_cast<float>(rule.beta2);
  const float one1 = static_cast<float>(1 - rule.beta1), one2 = static_cast<float>(1 - rule.beta2);
  const float epsilon = static_cast<float>(rule.epsilon);
  for (int64_t j = 0; j < size; ++j) {
    m[j] = b1 * m[j] + one1 * g[j];
    v[j] = b2 * v[j] + one2 * (g[j] * g[j]);
    w[j] -= c.rate * m[j] / (std::sqrt(v[j] * c.second) + epsilon);
  }
}

inline void shared_adam(const Rule& rule, int64_t size, float* w, float* state, const float* g) {
  const float b1 = static_cast<float>(rule.beta1), b2 = static_cast<float>(rule.beta2);
  const float one1 = static_cast<float>(1 - rule.beta1), one2 = static_cast<float>(1 - rule.beta2);
  double mean = 0, square = 0;
  for (int64_t j = 0; j < size; ++j) mean += g[j], square += static_cast<double>(g[j]) * g[j];
  state[2] += 1;
  const Corrections c(rule, state[2]);
  state[1] = b2 * state[1] + one2 * static_cast<float>(square / static_cast<double>(size));
  const float root = std::sqrt(state[1] * c.second) + static_cast<float>(rule.epsilon), m = b1 * state[0];
  for (int64_t j = 0; j < size; ++j) w[j] -= c.rate * (m + one1 * g[j]) / root;
  state[0] = m + one1 * static_cast<float>(mean / static_cast<double>(size));
}

// Give every rule the rate of one batch. `full` holds their own rates: tables, then dense.
inline void set_rates(const Call& c, int tables, const double* full, double share) {
  for (int k = 0; k < tables; ++k) c.tables[k].rule.lr = full[k] * share;
  for (int k = 0; k < 2; ++k) c.dense[k].rule.lr = full[tables + k] * share;
}

inline void decay(const Rule& rule, int64_t size, const float* w, float* g) {
  const float share = static_cast<float>(rule.weight_decay);
  if (share > 0)
    for (int64_t j = 0; j < size; ++j) g[j] += share * w[j];
}

// `rules.apply` on one row; for `adam` the row is settled, and `c` are those of the table's step.
inline void change(const Rule& rule, Corrections c, int64_t step, int64_t size, float* w, const float* g) {
  float* state = w + size;
  const float lr = static_cast<float>(rule.lr);
  switch (rule.name) {
    case 0:
      for (int64_t j = 0; j < size; ++j) w[j] += g[j];
      break;
    case 1:
      for (int64_t j = 0; j < size; ++j) w[j] -= lr * g[j];
      break;
    case 2:
      for (int64_t j = 0; j < size; ++j) {
        state[j] += g[j] * g[j];
        w[j] -= lr * g[j] / (std::sqrt(state[j]) + static_cast<float>(rule.epsilon));
      }
      break;
    case 3: {
      const float scale = static_cast<float>(rule.lr * std::sqrt(rule.initial_g2 / (rule.initial_g2 + state[0])));
      double square = 0;
      for (int64_t j = 0; j < size; ++j) w[j] -= scale * g[j], square += static_cast<double>(g[j]) * g[j];
      state[0] += static_cast<float>(square / static_cast<double>(size));
      break;
    }
    case 5:
      shared_adam(rule, size, w, state, g);
      break;
    default:
      adam(rule, c, size, w, state, state + size, g);
      state[2 * size] = static_cast<float>(step);
  }
}

inline void fetch(const float* at, int64_t floats) {  // ask for memory ahead of its use
  for (int64_t j = 0; j < floats; j += 16) __builtin_prefetch(at + j, 1);
}

// Find the batch's distinct rows, bring them up to date, and say for each sample where its row's gradient stands.
template <int DIM>
void begin_rows(Table& table, const int32_t* order, int64_t samples, int32_t batch, int32_t* places) {
  constexpr int64_t AHEAD = 8;
  table.count = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int32_t slot = table.slots[order[i]];
    if (table.seen[slot] != batch) {
      table.seen[slot] = batch;
      table.place[slot] = static_cast<int32_t>(table.count);
      table.touched[table.count++] = slot;
    }
    places[i] = table.place[slot];
  }
  if (table.rule.name == 6 && table.rule.here) {
    for (int64_t u = 0; u < table.count; ++u) {
      if (u + AHEAD < table.count) {
        fetch(table.block + static_cast<int64_t>(table.touched[u + AHEAD]) * table.width, table.width);
      }
      settle<DIM>(table.rule, table.block + static_cast<int64_t>(table.touched[u]) * table.width, table.steps);
    }
  }
  std::memset(table.gradient, 0, sizeof(float) * DIM * table.count);
}

// Rows as they are now: brought up to date, then copied.
template <int DIM>
void read_rows(Table& table, const int32_t* slots, int64_t count, float* out) {
  const bool settles = table.rule.name == 6;
  for (int64_t u = 0; u < count; ++u) {
    float* row = table.block + static_cast<int64_t>(slots[u]) * table.width;
    if (settles) settle<DIM>(table.rule, row, table.steps);
    std::memcpy(out + u * DIM, row, sizeof(float) * DIM);
  }
}

template <int DIM, int Y>
void look_up(const Table& table, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s)
    std::memcpy(y + s * Y, table.block + static_cast<int64_t>(table.slots[order[s]]) * table.width, sizeof(float) * DIM);
}

template <int DIM, int Y>
void look_up_back(Table& table, const int32_t* places, int samples, const float* dy) {
  for (int s = 0; s < samples; ++s) {
    float* g = table.gradient + static_cast<int64_t>(places[s]) * DIM;
    for (int j = 0; j < DIM; ++j) g[j] += dy[s * Y + j];
  }
}

template <int DIM>
void end_rows(Table& table) {
  if (!table.rule.here) return;
  const int64_t step = ++table.steps;
  const Corrections common(table.rule, static_cast<double>(step));
  const bool own = table.rule.name == 4;  // lazy_adam counts a row's own pushes
  for (int64_t u = 0; u < table.count; ++u) {
    float* row = table.block + static_cast<int64_t>(table.touched[u]) * table.width;
    const int64_t n = own ? static_cast<int64_t>(row[3 * DIM]) + 1 : step;
    const Corrections c = own ? Corrections(table.rule, static_cast<double>(n)) : common;
    decay(table.rule, DIM, row, table.gradient + u * DIM);
    change(table.rule, c, n, DIM, row, table.gradient + u * DIM);
  }
}

inline void end_dense(Dense& dense) {
  if (!dense.rule.here || !dense.size) return;
  const int64_t step = ++dense.steps;
  const Corrections c(dense.rule, static_cast<double>(step));
  decay(dense.rule, dense.size, dense.block, dense.gradient);
  change(dense.rule, c, step, dense.size, dense.block, dense.gradient);
}

// exp(x) for x <= 0, to about 1e-7 of it: 2^n times a polynomial of what is left (Cephes, expf); loops of it are vectors.
inline float exp_of_negative(float x) {
  x = std::max(x, -87.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return (p * r * r + r + 1.0f) * power;
}

// log(1 + e) for 0 <= e <= 1, to about 1e-7 of it: the series of 2 artanh(e / (2 + e)).
inline float log_of_one_and(float e) {
  const float t = e / (2.0f + e), s = t * t;
  return 2.0f * t * (1.0f + s * (0.33333333f + s * (0.2f + s * (0.14285714f + s * (0.11111111f + s * 0.09090909f)))));
}

// Mean cross-entropy of logits (models/loss.py), the scores, counted too, and d = d(loss)/d(logit); `count` samples in the
// whole batch.
template <int Z>
double cross_entropy(int samples, int64_t count, const float* z, const int32_t* order, const float* label, float* d,
                     float* scores, int64_t* counts) {
  const float share = 1.0f / static_cast<float>(count);
  float losses[BLOCK], slopes[BLOCK], x[BLOCK], y[BLOCK];
  for (int s = 0; s < samples; ++s) x[s] = z[s * Z], y[s] = label[order[s]];
  for (int s = 0; s < samples; ++s) {
    const float e = exp_of_negative(-std::abs(x[s])), p = (x[s] >= 0 ? 1.0f : e) / (1.0f + e);
    losses[s] = std::max(x[s], 0.0f) - x[s] * y[s] + log_of_one_and(e);
    scores[s] = p;
    slopes[s] = (p - y[s]) * share;
  }
  double loss = 0;
  for (int s = 0; s < samples; ++s) loss += losses[s], d[s * Z] = slopes[s];
  if (!std::isfinite(loss)) return std::nan("");
  for (int s = 0; s < samples; ++s) ++counts[(y[s] > 0 ? 0 : BUCKETS) + static_cast<int>(scores[s] * (BUCKETS - 1))];
  return loss;
}

// Mean over pairs of -log sigmoid(positive - negative) (models/loss.py), the rest as above; returned twice a pair, for a
// pair is two samples.
template <int Z>
double pairwise(int samples, int64_t count, const float* z, const int32_t* order, const float* label, float* d,
                float* scores, int64_t* counts) {
  const float share = 2.0f / static_cast<float>(count);
  float losses[BLOCK / 2], slopes[BLOCK / 2], x[BLOCK];
  for (int s = 0; s < samples; ++s) {
    x[s] = z[s * Z];
    const float e = exp_of_negative(-std::abs(x[s]));
    scores[s] = (x[s] >= 0 ? 1.0f : e) / (1.0f + e);
  }
  for (int p = 0; p < samples / 2; ++p) {
    const float above = x[2 * p] - x[2 * p + 1], e = exp_of_negative(-std::abs(above));
    losses[p] = std::max(-above, 0.0f) + log_of_one_and(e);
    slopes[p] = (above >= 0 ? e : 1.0f) / (1.0f + e) * share;
  }
  double loss = 0;
  for (int p = 0; p < samples / 2; ++p) {
    loss += 2 * losses[p];
    d[2 * p * Z] = -slopes[p], d[(2 * p + 1) * Z] = slopes[p];
  }
  if (!std::isfinite(loss)) return std::nan("");
  for (int s = 0; s < samples; ++s) ++counts[(label[order[s]] > 0 ? 0 : BUCKETS) + static_cast<int>(scores[s] * (BUCKETS - 1))];
  return loss;
}

}  // namespace fedps
