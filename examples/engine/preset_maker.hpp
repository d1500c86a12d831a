// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "compressed_attention.hpp"
#include "error.hpp"
#include "estimator_data.hpp"
#include "pins.hpp"
#include "presets.hpp"
#include "reconstructed_attention.hpp"

#include <purekv/budget/ratio.hpp>
#include <purekv/presets.hpp>

#include <concepts>

namespace engine {

/// Makes the presets for a cache of T; nothing for a name it does not know. One source file for each T instantiates it,
/// because they take long to compile.
template <purekv::Element T> class preset_maker {
 public:
  preset_maker(language_model const& model, int compression, attention_options const& options)
      : model_(model),
        layers_(model.shape().layers),
        ratio_(purekv::ratio::compression(compression)),
        chunked_(options.chunked),
        pattern_(options.pattern),
        layout_(options.layout) {}

  std::unique_ptr<measured_attention> make(preset_name const& preset) const {
    using namespace purekv;
    auto const evict = own_scores(evict_when::after_attending);
    std::string const& name = preset.name;
    if (name == "full") return with(streaming<ratio>{}, own_scores(evict_when::never));
    if (name == "streaming") return with(streaming<ratio>{}, evict);
    if (name == "random") return with_seeds(evict);
    if (name == "knorm") return with(knorm<ratio>{}, evict);
    if (name == "tova") return with(tova<ratio>{}, evict);
    if (name == "h2o") return with(h2o<ratio>{}, evict);
    if (name == "h2o_half") {
      recent_share const newest{ratio_.numerator, 2 * ratio_.denominator};
      return with(h2o_half<ratio>{.budget = {}, .protect = newest}, evict);
    }
    if (name == "snapkv") return with(snapkv<ratio>{}, evict);
    if (name == "snapkv_head_mean") return with(snapkv_by<head_mean<votes>>{}, evict);
    if (name == "snapkv_value_norm") return with(snapkv_by<value_weighted<group_mean<votes>>>{}, evict);
    if (name == "snapkv_spans") return with(snapkv_spans<ratio>{}, evict);
    if (name == "pyramidkv") {
      pyramidkv<ratio> c;
      c.budget = {.budget = ratio_, .least = 20};
      return with(c, evict);
    }
    if (name == "criticalkv") return with_projections(evict);
    if (name == "expected_attention") return with_queries_to_come(evict);
    if (name == "kvzip") return after_passes(name, kvzip<ratio>{.budget = {ratio_}}, false);
    if (name == "probes") return after_passes(name, probes<ratio>{.budget = ratio_}, true);
    if (name == "probes_heads") return after_passes(name, probes<across_heads<ratio>>{.budget = {ratio_}}, true);
    if (name == "probes_model") return after_passes(name, probes<across_model<ratio>>{.budget = {ratio_}}, true);

    if (name == "novel") return with(seeing(name, novel<ratio>{.estimator = {layout_}}), evict);
    if (name == "novel_place")
      return with(seeing(name, compressor<novelty<peers::place>, ratio, text>{.estimator = {layout_}}), evict);

    auto const band = [&](int first, int last) { return preset.band.value_or(source_band{first, last}); };
    source_band const lower = band(0, layers_ / 3);
    if (name == "purekv_paper") return with(purekv_paper<ratio>{}, scored_by(band(layers_ / 4, layers_ / 4)));
    if (name == "purekv") return with(purekv_early<ratio>{}, scored_by(lower));
    if (name == "purekv_drop") return with(purekv_early<ratio>{}, scored_by(lower, evict_when::dropping));
    if (name == "purekv_after") return with(purekv_early<ratio>{}, scored_by(lower, evict_when::after_attending));
    if (name == "purekv_no_norm") return with(unweighted{}, scored_by(lower));
    if (name == "purekv_video")
      return with(seeing(name, purekv_video<ratio>{}), scored_by(band(layers_ / 6, layers_ / 3)));
    if (name == "purekv_video_no_norm")
      return with(seeing(name, unweighted_video{}), scored_by(band(layers_ / 6, layers_ / 3)));
    if (name == "purekv_deep") return with(purekv_deep<ratio>{}, scored_by(band(layers_ * 8 / 15, layers_ * 3 / 4)));
    return nullptr;
  }

 private:
  using votes = purekv::window_attention<16>;
  using pinned = purekv::any_of<purekv::sinks, purekv::recent>;
  template <class E>
  using snapkv_by = purekv::compressor<purekv::pooled<E, 7, purekv::pooling::average>, purekv::ratio, pinned>;
  using unweighted = purekv::compressor<
      purekv::cross_layer<purekv::question_spans, purekv::combine::maximum, purekv::weigh_by::nothing>, purekv::ratio,
      pinned>;

  using unweighted_video = purekv::compressor<purekv::cross_layer<purekv::head_max<purekv::window_attention<8>>,
                                                                  purekv::combine::maximum, purekv::weigh_by::nothing>,
                                              purekv::ratio, purekv::text>;

  /// A compressor that pins the text beside what the prompt shows.
  template <class Compressor> Compressor seeing(std::string const& name, Compressor c) const {
    if (layout_.count == 0) throw bad_input(name + " compresses prompts that show something");
    c.protect.layout = layout_;
    return c;
  }

  layer_schedule own_scores(purekv::evict_when when) const {
    layer_schedule result{std::vector<purekv::layer_plan>(static_cast<std::size_t>(layers_)), {}};
    purekv::own_source(result.layers.data(), layers_, when);
    return result;
  }

  /// The layers up to the band's last wait for its score; above: what those above do.
  layer_schedule scored_by(purekv::source_band band,
                           purekv::evict_when above = purekv::evict_when::before_attending) const {
    if (band.last >= layers_)
      throw bad_input("layers " + std::to_string(band.first) + " to " + std::to_string(band.last) +
                      " cannot be the source: the model has " + std::to_string(layers_));
    layer_schedule result{std::vector<purekv::layer_plan>(static_cast<std::size_t>(layers_)), {band}};
    purekv::one_source(result.layers.data(), layers_, band, above);
    return result;
  }

  template <class Compressor>
  std::unique_ptr<measured_attention> with(std::vector<Compressor> compressors, layer_schedule schedule,
                                           std::unique_ptr<estimator_data> data = nullptr) const {
    if constexpr (std::same_as<decltype(compressors[0].budget), purekv::ratio>)
      for (Compressor& c : compressors) c.budget = ratio_;
    if (chunked_) schedule.take_chunks();
    std::vector<decltype(with_pins(compressors[0], layout_))> pinning;
    for (Compressor const& c : compressors) pinning.push_back(with_pins(c, layout_));
    return std::make_unique<compressed_attention<T, typename decltype(pinning)::value_type>>(
        model_.shape(), std::move(schedule), std::move(pinning), std::move(data), pattern_, model_.threads());
  }
  template <class Compressor>
  std::unique_ptr<measured_attention> with(Compressor const& c, layer_schedule schedule) const {
    return with(std::vector{c}, std::move(schedule));
  }

  template <class Compressor>
  std::unique_ptr<measured_attention> after_passes(std::string const& name, Compressor const& c, bool asked) const {
    if (!model_.shape().windows.empty())
      throw bad_input(name + " compresses models whose layers all see the whole context");
    auto const pinning = with_pins(c, layout_);
    return std::make_unique<reconstructed_attention<T, std::remove_const_t<decltype(pinning)>>>(
        model_.shape(), pinning, pattern_, asked, model_.threads());
  }

  std::unique_ptr<measured_attention> with_seeds(layer_schedule schedule) const {
    std::vector<purekv::random_baseline<purekv::ratio>> each(static_cast<std::size_t>(layers_));
    for (std::size_t l = 0; l < each.size(); ++l) each[l].estimator.seed = l;
    return with(std::move(each), std::move(schedule));
  }

  std::unique_ptr<measured_attention> with_projections(layer_schedule schedule) const {
    auto data = std::make_unique<output_projections>(model_);
    std::vector<purekv::criticalkv<purekv::ratio>> each(static_cast<std::size_t>(layers_));
    for (int l = 0; l < layers_; ++l) {
      auto& critical = each[static_cast<std::size_t>(l)].estimator;
      critical.budget = ratio_;
      critical.projection = data->of(l);
    }
    return with(std::move(each), std::move(schedule), std::move(data));
  }

  std::unique_ptr<measured_attention> with_queries_to_come(layer_schedule schedule) const {
    if (chunked_) throw bad_input("expected_attention reads all queries of the prompt at once; leave out --chunk");
    auto data = std::make_unique<queries_to_come>(model_);
    purekv::expected_attention<purekv::ratio> c;
    c.estimator.estimator.estimator.future = data->moments();
    c.estimator.estimator.estimator.scale = model_.shape().attention_scale;
    return with(std::vector{c}, std::move(schedule), std::move(data));
  }

  language_model const& model_;
  int layers_;
  purekv::ratio ratio_;
  bool chunked_;
  purekv::per_layer<pattern> pattern_;
  purekv::token_layout layout_;
};

}  // namespace engine
