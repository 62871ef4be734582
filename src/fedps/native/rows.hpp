// Rows of tables and dense parameters: finding those of a batch, bringing them up to date, changing them by their rules.
//
// A row is [w | state], as in table/rules.py; of Adam [w | m | v | counter]. Under `adam` a row that is in no batch goes on
// moving by its momentum, and catches up in closed form when it is next in one. So a row is settled up to the step before
// (`begin_rows`) before anything reads it, and again whenever it is read outside of training (`read_rows`).
#pragma once

#include "basics.hpp"

namespace fedps {

// A row's counter of pushes is no float: its 4 bytes are those of a uint32 (`rules.counters`). It is moved as bits: a small
// one, taken for a float, is a denormal, which arithmetic here flushes to zero.
inline uint32_t counter(const float* at) {
  uint32_t n;
  std::memcpy(&n, at, sizeof n);
  return n;
}
inline void set_counter(float* at, int64_t n) {
  const uint32_t bits = static_cast<uint32_t>(n);
  std::memcpy(at, &bits, sizeof bits);
}
inline int64_t counted(const float* at) {  // one push more
  return std::min<int64_t>(int64_t{counter(at)} + 1, LAST);
}

// Bring a row up to `step` by the moves it missed: `rules.settle`.
template <int DIM>
void settle(const Rule& rule, float* row, int64_t step) {
  const uint32_t noted = counter(row + 3 * DIM);
  const int64_t missed = static_cast<int32_t>(static_cast<uint32_t>(step) - noted);  // modulo 2^32
  if (!noted || missed <= 0) return;
  const int64_t last = step - missed;
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
  set_counter(row + 3 * DIM, step);
}

struct Corrections {
  float rate, second;
  Corrections() = default;
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
  const int64_t n = counted(state + 2);
  set_counter(state + 2, n);
  const Corrections c(rule, static_cast<double>(n));
  state[1] = b2 * state[1] + one2 * static_cast<float>(square / static_cast<double>(size));
  const float root = std::sqrt(state[1] * c.second) + static_cast<float>(rule.epsilon), m = b1 * state[0];
  for (int64_t j = 0; j < size; ++j) w[j] -= c.rate * (m + one1 * g[j]) / root;
  state[0] = m + one1 * static_cast<float>(mean / static_cast<double>(size));
}

// Corrections by a row's own steps, each worked out once a batch: its powers take longer than all else of a row.
class OwnCorrections {
  static constexpr int64_t KEPT = 64;
  const Rule& rule;
  int64_t steps[KEPT] = {};  // a row that is changed has one at least
  Corrections kept[KEPT];

 public:
  explicit OwnCorrections(const Rule& of) : rule(of) {}
  Corrections at(int64_t n) {
    if (steps[n % KEPT] != n) steps[n % KEPT] = n, kept[n % KEPT] = Corrections(rule, static_cast<double>(n));
    return kept[n % KEPT];
  }
};

// Note every rule's own rate: tables, then dense.
inline void own_rates(const Call& c, int tables, double* full) {
  for (int k = 0; k < tables; ++k) full[k] = c.tables[k].rule.lr;
  for (int k = 0; k < DENSE; ++k) full[tables + k] = c.dense[k].rule.lr;
}

// Give every rule the rate of one batch. `full` holds their own rates: tables, then dense.
inline void set_rates(const Call& c, int tables, const double* full, double share) {
  for (int k = 0; k < tables; ++k) c.tables[k].rule.lr = full[k] * share;
  for (int k = 0; k < DENSE; ++k) c.dense[k].rule.lr = full[tables + k] * share;
}

inline void decay(const Rule& rule, int64_t size, const float* w, float* g) {
  const float share = static_cast<float>(rule.weight_decay);
  if (share > 0)
    for (int64_t j = 0; j < size; ++j) g[j] += share * w[j];
}

// Add the gradient of FedProx's term, proximal / 2 times the squared distance from the anchor.
inline void pull_back(double proximal, int64_t size, const float* w, const float* anchor, float* g) {
  const float share = static_cast<float>(proximal);
  for (int64_t j = 0; j < size; ++j) g[j] += share * (w[j] - anchor[j]);
}

// `rules.apply` on one row; for `adam` the row is settled, and `c` are those of the table's step.
inline void change(const Rule& rule, Corrections c, int64_t step, int64_t size, float* w, const float* g) {
  float* state = w + size;
  const float lr = static_cast<float>(rule.lr);
  switch (rule.name) {
    case ADD:
      for (int64_t j = 0; j < size; ++j) w[j] += g[j];
      break;
    case SGD:
      for (int64_t j = 0; j < size; ++j) w[j] -= lr * g[j];
      break;
    case ADAGRAD:
      for (int64_t j = 0; j < size; ++j) {
        state[j] += g[j] * g[j];
        w[j] -= lr * g[j] / (std::sqrt(state[j]) + static_cast<float>(rule.epsilon));
      }
      break;
    case ROW_ADAGRAD: {
      const float scale = static_cast<float>(rule.lr * std::sqrt(rule.initial_g2 / (rule.initial_g2 + state[0])));
      double square = 0;
      for (int64_t j = 0; j < size; ++j) w[j] -= scale * g[j], square += static_cast<double>(g[j]) * g[j];
      state[0] += static_cast<float>(square / static_cast<double>(size));
      break;
    }
    case SHARED_ADAM:
      shared_adam(rule, size, w, state, g);
      break;
    default:
      adam(rule, c, size, w, state, state + size, g);
      set_counter(state + 2 * size, step);
  }
}

constexpr int64_t AHEAD = 8;  // rows

inline void fetch(const float* at, int64_t floats) {  // ask for memory ahead of its use, a cache line of 16 floats a time
  for (int64_t j = 0; j < floats; j += 16) __builtin_prefetch(at + j, 1);
}

// Where the gradients of a batch's rows stand that one feature looks up in one table.
struct Places {
  std::vector<int32_t> at;     // of each id, sample after sample
  std::vector<int64_t> first;  // [samples]: of a sample's ids, where the first is in `at`; of features with several

  int64_t end(int64_t i) const {  // where those of sample i end
    return i + 1 < static_cast<int64_t>(first.size()) ? first[i + 1] : static_cast<int64_t>(at.size());
  }
};

// Find the batch's distinct rows that a feature looks up, and say for each where its gradient stands.
// `seen` tells rows of this batch from others without being cleared: batches have numbers, and 0 is none of them.
inline int32_t find_row(Table& table, int32_t slot, int32_t batch) {
  if (table.seen[slot] != batch) {
    table.seen[slot] = batch;
    table.place[slot] = static_cast<int32_t>(table.count);
    table.touched[table.count++] = slot;
  }
  return table.place[slot];
}
inline void find_rows(Table& table, const Feature& feature, const int32_t* order, int64_t samples, int32_t batch, Places& places) {
  if (!feature.starts) {
    places.at.resize(samples);
    for (int64_t i = 0; i < samples; ++i) places.at[i] = find_row(table, feature.slots[order[i]], batch);
    return;
  }
  places.at.clear();
  places.first.resize(samples);
  for (int64_t i = 0; i < samples; ++i) {
    places.first[i] = static_cast<int64_t>(places.at.size());
    for (int64_t k = feature.starts[order[i]]; k < feature.starts[order[i] + 1]; ++k)
      places.at.push_back(find_row(table, feature.slots[k], batch));
  }
}

// Bring the rows that were found up to date, and clear their gradients.
template <int DIM>
void begin_rows(Table& table) {
  if (table.rule.name == ADAM && table.rule.optimizes) {
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
  const bool settles = table.rule.name == ADAM;
  for (int64_t u = 0; u < count; ++u) {
    float* row = table.block + static_cast<int64_t>(slots[u]) * table.width;
    if (settles) settle<DIM>(table.rule, row, table.steps);
    std::memcpy(out + u * DIM, row, sizeof(float) * DIM);
  }
}

template <int DIM, int Y>
void look_up(const Table& table, const Feature& feature, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s)
    std::memcpy(y + s * Y, table.block + static_cast<int64_t>(feature.slots[order[s]]) * table.width, sizeof(float) * DIM);
}

template <int DIM, int Y>
void look_up_back(Table& table, const int32_t* places, int samples, const float* dy) {
  for (int s = 0; s < samples; ++s) {
    float* g = table.gradient + static_cast<int64_t>(places[s]) * DIM;
    for (int j = 0; j < DIM; ++j) g[j] += dy[s * Y + j];
  }
}

// y = the sum, or the mean, of a sample's rows
template <int DIM, int Y, bool MEAN>
void pool(const Table& table, const Feature& feature, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s, y += Y) {
    const int64_t begin = feature.starts[order[s]], end = feature.starts[order[s] + 1];
    for (int j = 0; j < DIM; ++j) y[j] = 0;
    for (int64_t k = begin; k < end; ++k) {
      const float* row = table.block + static_cast<int64_t>(feature.slots[k]) * table.width;
      for (int j = 0; j < DIM; ++j) y[j] += row[j];
    }
    if (MEAN && end > begin)
      for (int j = 0; j < DIM; ++j) y[j] /= static_cast<float>(end - begin);
  }
}
template <int DIM, int Y, bool MEAN>
void pool_back(Table& table, const Places& places, int64_t from, int samples, const float* dy) {
  for (int64_t i = from; i < from + samples; ++i, dy += Y) {
    const int64_t begin = places.first[i], end = places.end(i);
    const float share = MEAN && end > begin ? 1 / static_cast<float>(end - begin) : 1.0f;
    for (int64_t k = begin; k < end; ++k) {
      float* g = table.gradient + static_cast<int64_t>(places.at[k]) * DIM;
      for (int j = 0; j < DIM; ++j) g[j] += share * dy[j];
    }
  }
}

template <int W, int Y>
void numbers(const Feature& feature, const int32_t* order, int samples, float* y) {
  for (int s = 0; s < samples; ++s)
    for (int j = 0; j < W; ++j) y[s * Y + j] = feature.numbers[static_cast<int64_t>(order[s]) * W + j];
}

template <int DIM>
void end_rows(Table& table) {
  if (!table.rule.optimizes) return;
  const int64_t step = ++table.steps;
  const Corrections common(table.rule, static_cast<double>(step));
  const bool own = table.rule.name == LAZY_ADAM;  // lazy_adam counts a row's own pushes
  OwnCorrections corrections(table.rule);
  for (int64_t u = 0; u < table.count; ++u) {
    float* row = table.block + static_cast<int64_t>(table.touched[u]) * table.width;
    if (u + AHEAD < table.count) fetch(table.block + static_cast<int64_t>(table.touched[u + AHEAD]) * table.width, table.width);
    const int64_t n = own ? counted(row + 3 * DIM) : step;
    const Corrections c = own ? corrections.at(n) : common;
    float* g = table.gradient + u * DIM;
    if (table.anchor) pull_back(table.proximal, DIM, row, table.anchor + static_cast<int64_t>(table.touched[u]) * DIM, g);
    decay(table.rule, DIM, row, g);
    change(table.rule, c, n, DIM, row, g);
  }
}

inline void end_dense(Dense& dense) {
  if (!dense.rule.optimizes || !dense.size) return;
  const int64_t step = ++dense.steps;
  const Corrections c(dense.rule, static_cast<double>(step));
  if (dense.anchor) pull_back(dense.proximal, dense.size, dense.block, dense.anchor, dense.gradient);
  decay(dense.rule, dense.size, dense.block, dense.gradient);
  change(dense.rule, c, step, dense.size, dense.block, dense.gradient);
}

}  // namespace fedps
