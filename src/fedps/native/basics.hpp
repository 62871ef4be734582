// Vectors, and what the caller of a step hands over.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace fedps {

constexpr int LANES = 8;   // floats of a vector
constexpr int BLOCK = 64;  // samples that are worked on at once: what they need stays in the nearest cache
constexpr int WIDE_BLOCK = 256;  // the same where layers are wide, whose weights are read once a block
constexpr int TILE = 4;    // rows of a product kept in registers
constexpr int BUCKETS = 4096;  // of a histogram of scores, as in metrics.py
constexpr int64_t LAST = UINT32_MAX;  // the largest counter of a row's pushes, as in `rules.LAST`

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
inline Vector all(float x) { return x - Vector{}; }  // minus zero changes no float, plus zero does, and must be computed

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

// What the caller hands over. library.py has the same structures, field by field; all memory is the caller's.

enum : int64_t { ADD, SGD, ADAGRAD, ROW_ADAGRAD, LAZY_ADAM, SHARED_ADAM, ADAM };  // as in `types.RULES`

struct Rule {
  int64_t name;       // one of these; the `fed_` rules are the servers' alone
  int64_t optimizes;  // whether the step optimizes rows; else it leaves their gradients to the caller
  double lr, beta1, beta2, epsilon, initial_g2, weight_decay;
  const double* tail;      // adam: `rules.momentum_tail`
  const double* powers[3]; // adam: beta1^k, beta2^k, (beta1 / sqrt(beta2))^k
  int64_t last;            // adam: last index of these four
};

struct Feature {
  const int32_t* slots;   // of ids: each sample's row, or rows end to end; else null
  const int64_t* starts;  // [samples + 1]: where a sample's rows begin among these; null: each sample has one
  const float* numbers;   // of numbers: [samples][width]; else null
};

struct Table {
  float* block;          // [rows][width]: values, then the state of the rule
  int32_t* seen;         // [rows]: the batch that last saw a row
  int32_t* place;        // [rows]: where its gradient stands then
  int32_t* touched;      // the rows of the last batch; there is room for all that one may have
  float* gradient;       // [..][dim]: their gradients
  const float* anchor;   // [rows][dim]: rows as last received, which FedProx pulls them back to; null: it does not
  int64_t rows, width, steps, count;
  double proximal;       // its mu
  Rule rule;
};

struct Dense {
  float* block;     // [size] values, then the state of the rule
  float* gradient;  // [size] of the last batch
  const float* anchor;  // [size], as for a table
  int64_t size, steps;
  double proximal;
  Rule rule;
};

constexpr int DENSE = 3;

enum : int64_t { CROSS_ENTROPY, PAIRWISE, SAMPLED_SOFTMAX, WEIGHTED, IN_BATCH_SOFTMAX, GIVEN };  // as in `library.LOSSES`

struct Label {
  int64_t real;  // whether it is any number, learned by squared error; else 0 or 1, by cross-entropy
  float weight;  // of its loss
  float share;   // of the batch at hand: what the loss of a sample counts whose label is known
};

struct Call {
  Table* tables;
  Dense* dense;            // DENSE of them: shared, private, frozen
  const int64_t* of;       // for each parameter, which of these it belongs to
  const int64_t* offset;   // and where it begins there
  const Feature* features; // what the samples are
  const int32_t* order;    // the samples, in the order of training
  int64_t samples, batch, first;  // how many; of a batch; number of the first batch (from 1, for `seen`)
  const float* label;      // [..][labels]; of several, NaN where nobody knows; GIVEN, [samples][labels]: gradients
  const double* rates;     // [batches]: share of `lr` that each batch is trained with
  Label* each;             // [labels]: what they are
  int64_t labels, scored;  // how many; which of them stands for all where one number is due
  int64_t loss, group;     // what is made small; samples that it compares: a positive, then its negatives
  const float* log_q;      // in-batch softmax, [rows]: logarithm of how often each row is an item of the data
  float* scores;           // train, [samples]: probabilities, of a real label numbers; score, [samples][labels]: logits
  double* losses;          // [batches]: mean of each
  int64_t* counts;         // [2][BUCKETS]: scores of positives, of negatives
};

}  // namespace fedps
