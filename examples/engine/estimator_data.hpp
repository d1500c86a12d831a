// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "language_model.hpp"

#include <purekv/estimator/critical.hpp>
#include <purekv/moments.hpp>

namespace engine {

/// What estimators read of a model beside queries, keys and values: they carry views of it.
class estimator_data {
 public:
  virtual ~estimator_data() = default;

  /// A layer's turn in the prompt's pass, before it is scored; all threads together.
  virtual purekv::status fill(purekv::cpu /*exec*/, int /*layer*/, layer_rows const& /*rows*/) { return {}; }
  /// One thread, before: room for a prompt of so many tokens.
  virtual void begin(int /*prompt_tokens*/) {}
};

/// Each layer's output projection, for CriticalKV.
class output_projections final : public estimator_data {
 public:
  explicit output_projections(language_model const& model);
  purekv::output_projection<float> of(int layer) const;

 private:
  model_shape shape_;
  std::vector<std::vector<float>> weights_;  // [layers][hidden, heads * dim]
};

/// Mean and covariance of the queries that will follow the prompt, for Expected Attention: those of the prompt before
/// their rotary embedding, turned to the average of the next 512 positions. One layer's at a time.
class queries_to_come final : public estimator_data {
 public:
  /// Throws bad_input for a model whose rotary embedding has sections.
  explicit queries_to_come(language_model const& model);
  purekv::query_moments moments();

  void begin(int prompt_tokens) override;
  purekv::status fill(purekv::cpu exec, int layer, layer_rows const& rows) override;

 private:
  language_model const& model_;
  std::int32_t prompt_ = 0;
  std::vector<float> mean_, covariance_, queries_;  // queries_: [tokens, heads, dim], not rotated
};

}  // namespace engine
