// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures.hpp"

#include <purekv/pipeline.hpp>

#include <deque>

/// A model's worth of vectors and memory, fed to a pipeline chunk by chunk as an engine would: each chunk through all
/// layers.
namespace fixtures {

/// What an estimator says, besides that: appended to `log` at every call, a row of every KV head after another.
template <class E> struct recorded : E {
  std::vector<float>* log = nullptr;

  template <purekv::Team G, purekv::Cache C>
  void score(G const& team, purekv::layer_input<C> const& in, purekv::score_out out, float* scratch) const {
    E::score(team, in, out, scratch);
    if (team.rank() == 0 && log != nullptr)
      for (int h = 0; h < in.kv_heads(); ++h) log->insert(log->end(), out.row(h), out.row(h) + in.tokens(h));
    team.sync();
  }
};

/// How many of the next rows of each sequence a call brings.
using chunk_sizes = std::vector<std::int32_t>;

template <class T> class chunked_model {
 public:
  struct layer_memory {
    owned_rows<float> q, k, v, out;  // of the whole prompt, sequence after sequence
    owned_contiguous<T> full;
    std::vector<T> keys, values;
    std::vector<std::int32_t> positions;
    std::vector<purekv::extent> extents;
  };

  purekv::model_shape model;
  std::vector<std::int32_t> prompt, fed, positions;
  int new_tokens = 3, ranks = 1;
  std::deque<layer_memory> layers;
  std::vector<purekv::layer_storage<T>> storage;

  /// Positions begin at 5 and leave some out.
  chunked_model(generator& random, purekv::model_shape const& shape, std::vector<std::int32_t> tokens)
      : model(shape), prompt(std::move(tokens)) {
    for (std::int32_t const n : prompt)
      for (std::int32_t i = 0, at = 5; i < n; ++i, at += between(random, 1, 2)) positions.push_back(at);
    for (int l = 0; l < model.layers; ++l) {
      layers.push_back(
          {{model.heads, total(), model.dim},
           {model.kv_heads, total(), model.dim, order::token_major},
           {model.kv_heads, total(), value_dim()},
           {model.heads, total(), value_dim()},
           {sequences(), model.kv_heads, longest(), model.dim, order::token_major, 1, beyond::nan, model.value_dim},
           {},
           {},
           {},
           {}});
      layers.back().q.fill_normal(random, 2);
      layers.back().k.fill_normal(random);
      layers.back().v.fill_normal(random);
    }
  }

  int sequences() const { return static_cast<int>(prompt.size()); }
  int total() const { return begin_of(sequences()); }
  int begin_of(int s) const { return std::accumulate(prompt.begin(), prompt.begin() + s, 0); }
  int longest() const { return *std::max_element(prompt.begin(), prompt.end()); }
  int value_dim() const { return model.value_dim != 0 ? model.value_dim : model.dim; }

  template <class Pipeline> purekv::status begin(Pipeline& p) {
    fed.assign(prompt.size(), 0);
    storage.clear();
    int const heads = sequences() * model.kv_heads;
    for (int l = 0; l < model.layers; ++l) {
      layer_memory& m = layers[size(l)];
      std::int64_t slots = 0;
      for (std::int32_t const n : prompt) slots += p.kept_slots(l, n, new_tokens);
      m.out.memory.assign(m.out.memory.size(), nan_of<float>());
      std::fill(m.full.keys.begin(), m.full.keys.end(), nan_of<T>());
      std::fill(m.full.values.begin(), m.full.values.end(), nan_of<T>());
      m.keys = untouched_memory<T>(slots * model.dim);
      m.values = untouched_memory<T>(slots * value_dim());
      m.positions = untouched_memory<std::int32_t>(slots);
      m.extents.assign(size(heads), {});
      storage.push_back({m.full.view,
                         {.keys = m.keys.data(),
                          .values = m.values.data(),
                          .positions = m.positions.data(),
                          .extents = m.extents.data(),
                          .sequences = sequences(),
                          .kv_heads = model.kv_heads,
                          .dim = model.dim,
                          .slots = slots,
                          .token_stride = model.dim,
                          .value_dim = model.value_dim,
                          .value_token_stride = model.value_dim}});
    }
    state_.emplace_back(p.state_bytes(sequences(), longest()));
    return p.begin(sequences(), prompt.data(), new_tokens, state_.back().view());
  }

  /// The rows of a call, copied out of the prompt.
  struct call {
    std::vector<std::int32_t> offset{0}, positions;
    owned_rows<float> q, k, v, out;
    purekv::query_view<float> queries() const {
      return {q.rows(), {static_cast<std::int32_t>(offset.size()) - 1, offset.data(), positions.data()}};
    }
  };
  call rows(int l, chunk_sizes const& sizes) const {
    int const count = std::accumulate(sizes.begin(), sizes.end(), 0);
    call c{{0},
           {},
           {model.heads, count, model.dim, order::token_major},
           {model.kv_heads, count, model.dim, order::token_major},
           {model.kv_heads, count, value_dim()},
           {model.heads, count, value_dim()}};
    layer_memory const& m = layers[size(l)];
    for (int s = 0; s < sequences(); ++s) {
      for (int i = 0; i < sizes[size(s)]; ++i) {
        int const from = begin_of(s) + fed[size(s)] + i, to = static_cast<int>(c.positions.size());
        auto const copy = [&](owned_rows<float> const& all, owned_rows<float> const& part) {
          for (int h = 0; h < all.view.heads; ++h)
            std::copy_n(all.view.row(h, from), all.view.dim, part.view.row(h, to));
        };
        copy(m.q, c.q);
        copy(m.k, c.k);
        copy(m.v, c.v);
        c.positions.push_back(positions[size(from)]);
      }
      c.offset.push_back(static_cast<std::int32_t>(c.positions.size()));
    }
    return c;
  }

  /// One layer of a chunk, in exactly the workspace that it asks for.
  template <class Pipeline> purekv::status prefill(Pipeline const& p, int l, call const& c, std::size_t less = 0) {
    owned_workspace const work(p.prefill_workspace(purekv::cpu{0, ranks}, l, c.queries(), storage.data()) - less);
    purekv::status const result = status_on_ranks(ranks, [&](purekv::cpu exec) {
      return p.prefill(exec, l, c.queries(), c.k.rows(), c.v.rows(), storage.data(), c.out.view, work.view());
    });
    if (!work.guards_untouched()) return {purekv::errc::mismatch, "chunked_model: a guard was written to"};
    return result;
  }

  /// A chunk through all layers.
  template <class Pipeline> purekv::status feed(Pipeline const& p, chunk_sizes const& sizes) {
    for (int l = 0; l < model.layers; ++l) {
      call const c = rows(l, sizes);
      if (purekv::status const s = prefill(p, l, c); !s.ok()) return s;
      for (int s = 0, from = 0; s < sequences(); ++s)
        for (int i = 0; i < sizes[size(s)]; ++i, ++from)
          for (int h = 0; h < model.heads; ++h)
            std::copy_n(c.out.view.row(h, from), value_dim(),
                        layers[size(l)].out.view.row(h, begin_of(s) + fed[size(s)] + i));
    }
    for (std::size_t s = 0; s < fed.size(); ++s) fed[s] += sizes[s];
    return {};
  }

  /// The whole prompt, next(left) of what is left of each sequence at a time.
  template <class Pipeline, class Next> purekv::status feed_all(Pipeline& p, Next const& next) {
    if (purekv::status const s = begin(p); !s.ok()) return s;
    for (bool first = true; first || fed != prompt; first = false) {
      chunk_sizes sizes;
      for (std::size_t s = 0; s < fed.size(); ++s) sizes.push_back(next(prompt[s] - fed[s]));
      if (purekv::status const s = feed(p, sizes); !s.ok()) return s;
    }
    return {};
  }

  /// Positions that every (layer, sequence, KV head) keeps.
  std::vector<std::vector<std::int32_t>> kept() const {
    std::vector<std::vector<std::int32_t>> all;
    for (auto const& layer : storage)
      for (int s = 0; s < sequences(); ++s)
        for (int h = 0; h < model.kv_heads; ++h) {
          std::int32_t const* const first = layer.kept.positions + layer.kept.at(s, h).begin;
          all.emplace_back(first, first + layer.kept.length(s, h));
        }
    return all;
  }

 private:
  std::deque<owned_workspace> state_;  // the last is in use
};

}  // namespace fixtures
