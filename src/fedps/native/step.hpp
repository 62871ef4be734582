// A training step as loops over small blocks of samples. The generated file (see source.py) includes this one and has a
// `Network`: its arrays, and in the order of its operations which loops to call with which sizes. All sizes but the number
// of samples are known when it is compiled.
//
// A value is float[SAMPLES * stride]: a row a sample, its columns padded with zeros to whole vectors. Its gradient lies in
// an array of the same form. What stands in rows behind the last sample of a block is never used.
#pragma once

#include "gemm.hpp"
#include "layers.hpp"
#include "positions.hpp"
#include "towers.hpp"

namespace fedps {

// Go through a batch block by block, forward and backward; return the loss, as if each sample had the mean.
template <class Network>
double by_blocks(const Call& c, Network& w, const int32_t* order, int64_t n, float* scores) {
  constexpr int Z = Network::STRIDE;
  const auto head = c.loss == PAIRWISE          ? pairwise<Z>
                    : c.loss == SAMPLED_SOFTMAX ? sampled_softmax<Z>
                    : c.loss == WEIGHTED        ? weighted<Z>
                    : c.loss == GIVEN           ? given<Z>
                                                : cross_entropy<Z>;
  const int64_t most = Network::SAMPLES / c.group * c.group;  // samples of a block: a group stays together
  if (c.loss == WEIGHTED) begin_labels(c, n, order);
  double loss = 0;
  for (int64_t i = 0; i < n; i += most) {
    const int m = static_cast<int>(std::min(most, n - i));
    w.forward(c, order + i, m);
    loss += head(c, n, m, w.logit(), order + i, w.slope(), scores + i);
    w.backward_joint(m);
    w.backward(c, i, m);
  }
  return loss;
}

// The same of a loss that mixes the samples: forward for all, then forward again and backward, as a block holds few values.
template <class Network>
double by_batch(const Call& c, Network& w, InBatch<Network::TOWER>& all, const int32_t* order, int64_t n, float* scores) {
  constexpr int D = Network::TOWER;
  all.begin(c, Network::IDS < 0 ? nullptr : &c.features[Network::IDS], order, n);
  for (int64_t i = 0; i < n; i += Network::SAMPLES) {
    const int m = static_cast<int>(std::min<int64_t>(Network::SAMPLES, n - i));
    w.forward(c, order + i, m);
    std::memcpy(&all.queries[i * D], w.queries(), sizeof(float) * m * D);
    std::memcpy(&all.items[i * D], w.items(), sizeof(float) * m * D);
    for (int s = 0; s < m; ++s) {
      const float x = w.logit()[s * Network::STRIDE];
      scores[i + s] = score_of(x, exp_of_negative(-std::abs(x)));
    }
  }
  const double loss = all.train(n);
  for (int64_t i = 0; i < n; i += Network::SAMPLES) {
    const int m = static_cast<int>(std::min<int64_t>(Network::SAMPLES, n - i));
    w.forward(c, order + i, m);
    std::memcpy(w.d_queries(), &all.d_queries[i * D], sizeof(float) * m * D);
    std::memcpy(w.d_items(), &all.d_items[i * D], sizeof(float) * m * D);
    w.backward(c, i, m);
  }
  return loss * static_cast<double>(n);
}

// Train batch after batch; return how many. It ends at a loss that is not finite, before that batch has changed anything.
template <class Network>
int64_t train(const Call& c) {
  const FlushDenormals flush;
  auto made = std::make_unique<Network>();  // all zeros, as the padding must be
  Network& w = *made;
  double full[Network::TABLES + DENSE];
  own_rates(c, Network::TABLES, full);
  InBatch<Network::TOWER> all;
  int64_t done = 0;
  for (int64_t at = 0; at < c.samples; at += c.batch, ++done) {
    const int64_t n = std::min(c.batch, c.samples - at);
    const int32_t* order = c.order + at;
    const int32_t batch = static_cast<int32_t>(c.first + done);
    set_rates(c, Network::TABLES, full, c.rates[done]);
    for (int k = 0; k < DENSE; ++k) std::memset(c.dense[k].gradient, 0, sizeof(float) * c.dense[k].size);
    w.find_rows(c, order, n, batch);
    w.begin(c);
    double loss;
    if constexpr (Network::TOWER > 0) {
      loss = c.loss == IN_BATCH_SOFTMAX ? by_batch(c, w, all, order, n, c.scores + at) : by_blocks(c, w, order, n, c.scores + at);
    } else {
      loss = by_blocks(c, w, order, n, c.scores + at);
    }
    c.losses[done] = loss / static_cast<double>(n);
    if (!std::isfinite(loss)) return done + 1;
    w.end(c);
    w.change_rows(c);
    for (int k = 0; k < DENSE; ++k) end_dense(c.dense[k]);
  }
  return done;
}

// Write each sample's outputs to `scores`.
template <class Network>
void put_out(const Call& c, Network& w) {
  w.begin(c);
  for (int64_t i = 0; i < c.samples; i += Network::SAMPLES) {
    const int m = static_cast<int>(std::min<int64_t>(Network::SAMPLES, c.samples - i));
    w.forward(c, c.order + i, m);
    for (int s = 0; s < m; ++s)
      std::memcpy(c.scores + (i + s) * c.labels, w.logit() + s * Network::STRIDE, sizeof(float) * c.labels);
  }
}

// Write each sample's logits to `scores`.
template <class Network>
void score(const Call& c) {
  auto made = std::make_unique<Network>();  // all zeros, as the padding must be
  put_out(c, *made);
}

// Write what a part of a network makes of a batch, on rows brought up to date as `train` would.
template <class Network>
void ahead(const Call& c) {
  const FlushDenormals flush;
  auto made = std::make_unique<Network>();
  double full[Network::TABLES + DENSE];
  own_rates(c, Network::TABLES, full);
  set_rates(c, Network::TABLES, full, c.rates[0]);
  made->find_rows(c, c.order, c.samples, static_cast<int32_t>(c.first));
  put_out(c, *made);
}

// Values, of `FLOATS` each, go to their places in rows of `ROW`; and one for all samples.
template <int FLOATS, int ROW>
void keep(int samples, const float* a, float* out) {
  for (int s = 0; s < samples; ++s) std::memcpy(out + s * ROW, a + s * FLOATS, sizeof(float) * FLOATS);
}
template <int FLOATS>
void spread(int samples, const float* a, float* y) {
  for (int s = 0; s < samples; ++s) std::memcpy(y + s * FLOATS, a, sizeof(float) * FLOATS);
}

// Write what pairs need of each item, float[samples][ITEM].
template <class Halves>
void items(const Call& c, float* out) {
  auto made = std::make_unique<Halves>();
  made->begin(c);
  for (int64_t i = 0; i < c.samples; i += Halves::SAMPLES)
    made->items(c, c.order + i, static_cast<int>(std::min<int64_t>(Halves::SAMPLES, c.samples - i)), out + i * Halves::ITEM);
}

// Write the logits of each sample with each of `count` items, float[samples][count][labels], to `scores`.
template <class Halves>
void rank(const Call& c, const float* items, int64_t count) {
  auto made = std::make_unique<Halves>();
  Halves& h = *made;
  h.begin(c);
  constexpr int64_t SAMPLES = Halves::SAMPLES;
  std::vector<float> users(SAMPLES * Halves::USER);
  for (int64_t i = 0; i < c.samples; i += SAMPLES) {
    const int m = static_cast<int>(std::min(SAMPLES, c.samples - i));
    h.users(c, c.order + i, m, users.data());
    for (int64_t k = 0; k < count; k += SAMPLES) {  // these items stay in the nearest cache for all samples of the block
      const int n = static_cast<int>(std::min(SAMPLES, count - k));
      for (int s = 0; s < m; ++s) {
        const float* z = h.pairs(users.data() + s * Halves::USER, items + k * Halves::ITEM, n);
        float* at = c.scores + ((i + s) * count + k) * c.labels;
        for (int j = 0; j < n; ++j)
          for (int64_t l = 0; l < c.labels; ++l) at[j * c.labels + l] = z[j * Halves::STRIDE + l];
      }
    }
  }
}

}  // namespace fedps
