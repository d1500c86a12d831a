// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/budget/across_heads.hpp>
#include <purekv/budget/across_model.hpp>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/pyramid.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/compressor.hpp>
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/critical.hpp>
#include <purekv/estimator/cross_layer.hpp>
#include <purekv/estimator/future_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/head_max.hpp>
#include <purekv/estimator/head_mean.hpp>
#include <purekv/estimator/key_norm.hpp>
#include <purekv/estimator/novelty.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/estimator/reconstruction.hpp>
#include <purekv/estimator/uniform_random.hpp>
#include <purekv/estimator/value_weighted.hpp>
#include <purekv/estimator/window_attention.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/recent_share.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/text.hpp>

/// Papers as compositions. B is the budget: snapkv<ratio>{.budget = ratio::compression(5)}. Unless said otherwise the
/// first 4 and the last 16 positions are pinned.
namespace purekv::inline v0_1::inline PUREKV_ISA {

/// SnapKV, arXiv 2404.14469: the vote of the last 16 queries, mean over the group, average over 7 neighbours.
/// The authors vote with 32 or 64 queries and leave the window itself out of the pooling.
template <class B>
using snapkv = compressor<pooled<group_mean<window_attention<16>>, 7, pooling::average>, B, any_of<sinks, recent>>;

/// H2O, arXiv 2306.14048: the heavy hitters by accumulated attention, mean over the group.
template <class B> using h2o = compressor<group_mean<accumulated_attention>, B, any_of<sinks, recent>>;

/// H2O as its authors have it: half of the budget for heavy hitters, half for the newest tokens, no sinks. The protect
/// holds the newer half: h2o_half<ratio>{.budget = {1, 5}, .protect = {1, 10}}; of a fixed budget n it is
/// compressor<group_mean<accumulated_attention>, fixed, recent>{.budget = {n}, .protect = {n / 2}}. The authors evict
/// again at every step, by masses that go on accumulating; this evicts when it is called.
template <class B> using h2o_half = compressor<group_mean<accumulated_attention>, B, recent_share>;

/// StreamingLLM, arXiv 2309.17453: the first 4 tokens and the newest.
template <class B> using streaming = compressor<recency, B, sinks>;

/// TOVA, arXiv 2401.06104: what the last query attends to, mean over all heads of the layer, so that these keep the
/// same tokens; nothing is pinned. The authors evict again at every step.
template <class B> using tova = compressor<head_mean<window_attention<1>>, B, none>;

/// L2 norm of keys, arXiv 2406.11430: the tokens with the shortest keys; nothing is pinned. The authors leave the first
/// two layers alone.
template <class B> using knorm = compressor<key_norm, B, none>;

/// Expected Attention, arXiv 2510.00636: attention of the queries to come times the value norm, mean over the group;
/// the first 4 tokens are pinned. Set estimator.estimator.estimator.future for each layer, see future_attention.
template <class B> using expected_attention = compressor<value_weighted<group_mean<future_attention>>, B, sinks>;

/// PyramidKV, arXiv 2406.02069: SnapKV with budgets that fall with depth. Tell the budget how many tokens are pinned:
/// pyramidkv<ratio>{.budget = {.budget = ratio::compression(5), .least = 20}}.
template <class B> using pyramidkv = snapkv<pyramid<B>>;

/// CriticalKV, arXiv 2502.03805, over SnapKV. Set estimator.budget to the budget, and estimator.projection for each
/// layer, see critical. T: elements of the output projection.
template <class B, Element T = float>
using criticalkv =
    compressor<critical<pooled<group_mean<window_attention<16>>, 7, pooling::average>, B, T>, B, any_of<sinks, recent>>;

/// Any tokens: what every method must beat. Set estimator.seed.
template <class B> using random_baseline = compressor<uniform_random, B, any_of<sinks, recent>>;

/// PureKV, arXiv 2510.25600, as the paper words it: accumulated attention of a lower layer times this layer's value
/// norm. The paper leaves the reduction over heads open; here it is the mean over the group.
template <class B>
using purekv_paper = compressor<cross_layer<group_mean<accumulated_attention>>, B, any_of<sinks, recent>>;

/// The vote of the last 16 queries, the maximum over all heads; the 14 tokens after a peak are worth as much as the
/// peak, because layers look at the question's words in the document, and the answer follows them.
using question_spans = pooled<head_max<window_attention<16>>, 15, pooling::maximum, 14>;

/// SnapKV with that vote: every layer by its own, after it has attended.
template <class B> using snapkv_spans = compressor<question_spans, B, any_of<sinks, recent>>;

/// One source for the whole stack, early: question_spans, the maximum over a band of layers, times each layer's value
/// norm. For the lower third of the layers as the source (one_source): the layers above it prune first.
template <class B> using purekv_early = compressor<cross_layer<question_spans>, B, any_of<sinks, recent>>;

/// The same for a band in the upper middle, about 0.5 to 0.75 of the depth, where compression may be highest; the
/// layers below wait for it. How: combine::mean takes the mean over the band's layers instead of the maximum.
template <class B, combine How = combine::maximum>
using purekv_deep = compressor<cross_layer<question_spans, How>, B, any_of<sinks, recent>>;

/// Typical questions, asked of the cache before it is compressed: the largest probability that any of them, and any
/// head of the group, gives a token. For any question, asked after compression; driven by reconstruct.hpp, the probes
/// being its repetition. B: ratio for each KV head, across_heads, or across_model.
template <class B> using probes = compressor<group_max<reconstruction>, B, any_of<sinks, recent>>;

/// KVzip, arXiv 2505.23416: what the model needs to repeat the context, the largest probability that any repeated query
/// and any head of the group gives a token, by one budget over all layers and heads. For any question, asked after
/// compression; driven by reconstruct.hpp. The authors pin the first tokens only.
template <class B> using kvzip = probes<across_model<B>>;

/// Video, before any question is known: what stands out from its frame; the text is pinned. Set estimator.layout and
/// protect.layout.
template <class B> using novel = compressor<novelty<peers::frame>, B, text>;

/// Video, when the question ends the prompt: the vote of the last 8 positions, the maximum over all heads and over a
/// band of lower layers, times each layer's value norm; the text is pinned. Patches are looked up one by one, so
/// nothing is pooled over neighbours. Set protect.layout.
template <class B> using purekv_video = compressor<cross_layer<head_max<window_attention<8>>>, B, text>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
