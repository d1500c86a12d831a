// SPDX-License-Identifier: Apache-2.0
#include <purekv/schedule.hpp>

#include <doctest/doctest.h>

#include <array>
#include <string>

using namespace purekv;

namespace {

template <std::size_t L, std::size_t B>
schedule make(std::array<layer_plan, L> const& layers, std::array<source_band, B> const& bands) {
  return {layers.data(), static_cast<int>(L), bands.data(), static_cast<int>(B)};
}

TEST_CASE("one_source defers the layers up to the source and prunes first above it") {
  std::array<layer_plan, 6> layers;
  std::array<source_band, 1> const bands{source_band{1, 3}};
  one_source(layers.data(), 6, bands[0]);
  schedule const s = make(layers, bands);
  REQUIRE(validate(s).ok());
  for (int l = 0; l < 6; ++l) {
    CHECK(s.layers[l].when == (l <= 3 ? evict_when::deferred : evict_when::before_attending));
    CHECK(s.evicts_at(l) == (l <= 3 ? 3 : l));
    CHECK(s.in_any_band(l) == (l >= 1 && l <= 3));
  }
  std::string const words = describe(s);
  CHECK(words.find("layers 0-3: attend to all, evict when layers 1-3 have been scored\n") != std::string::npos);
  CHECK(words.find("layers 4-5: evict by layers 1-3, then attend to what is kept\n") != std::string::npos);
}

TEST_CASE("above a layer that drops tokens all layers drop, by the same source") {
  std::array<layer_plan, 5> layers;
  std::array<source_band, 2> const bands{source_band{0, 0}, source_band{1, 1}};
  one_source(layers.data(), 5, bands[0], evict_when::dropping);
  layers[1] = {evict_when::deferred, 1};
  layers[2] = {evict_when::before_attending, 1};
  CHECK(validate(make(layers, bands)).ok());
  CHECK(make(layers, bands).first_dropping() == 3);
  CHECK(describe(make(layers, bands)).find("layers 3-4: compute only the tokens kept by layer 0\n") !=
        std::string::npos);
  for (layer_plan top : {layer_plan{evict_when::never, -1}, layer_plan{evict_when::before_attending, 0},
                         layer_plan{evict_when::dropping, 1}}) {
    layers[4] = top;
    status const s = validate(make(layers, bands));
    CHECK(s.code == errc::bad_policy);
    CHECK(std::string(s.message).find("all layers drop, by the same source") != std::string::npos);
  }
  own_source(layers.data(), 5, evict_when::never);
  CHECK(make(layers, bands).first_dropping() == 5);
}

TEST_CASE("a prompt in chunks leaves nothing that prunes first or drops; attend_first makes it so") {
  std::array<layer_plan, 5> layers;
  std::array<source_band, 1> const bands{source_band{1, 2}};
  one_source(layers.data(), 5, bands[0]);
  layers[0] = {evict_when::never, -1};
  layers[4].when = evict_when::dropping;
  schedule s = make(layers, bands);
  CHECK(validate(s).ok());
  s.chunked = true;
  CHECK(validate(s).code == errc::bad_policy);
  attend_first(layers.data(), 5);
  CHECK(validate(s).ok());
  for (std::size_t l = 0; l < 5; ++l) {
    CHECK(layers[l].source == (l == 0 ? -1 : 0));
    CHECK(layers[l].when == (l == 0 ? evict_when::never : l <= 2 ? evict_when::deferred : evict_when::after_attending));
  }
  CHECK(describe(s) ==
        "layer 0: attend to all, keep all\n"
        "layers 1-2: attend to all, evict when layers 1-2 have been scored\n"
        "layers 3-4: attend to all, then evict by layers 1-2\n"
        "the prompt comes in chunks; nothing is evicted before the last\n");
}

TEST_CASE("own_source gives every layer its own score") {
  std::array<layer_plan, 3> layers;
  own_source(layers.data(), 3, evict_when::after_attending);
  schedule const s{layers.data(), 3, nullptr, 0};
  CHECK(validate(s).ok());
  CHECK(describe(s) == "layers 0-2: attend to all, then evict by its own score\n");
  own_source(layers.data(), 3, evict_when::never);
  CHECK(describe(s) == "layers 0-2: attend to all, keep all\n");
}

TEST_CASE("a schedule that cannot be met is refused with a sentence") {
  std::array<source_band, 1> const bands{source_band{2, 2}};
  auto refuse = [&](layer_plan plan, std::size_t at, char const* sentence) {
    std::array<layer_plan, 4> layers;
    own_source(layers.data(), 4, evict_when::after_attending);
    layers[at] = plan;
    status const s = validate(make(layers, bands));
    CHECK(s.code == errc::bad_policy);
    CHECK(std::string(s.message).find(sentence) != std::string::npos);
  };
  refuse({evict_when::before_attending, 0}, 1, "must lie above its source");
  refuse({evict_when::before_attending, 0}, 2, "must lie above its source");
  refuse({evict_when::before_attending, -1}, 3, "must lie above its source");
  refuse({evict_when::deferred, 0}, 3, "at or above it");
  refuse({evict_when::deferred, -1}, 0, "at or above it");
  refuse({evict_when::after_attending, 0}, 0, "must defer");
  refuse({evict_when::never, 1}, 0, "not there");
  refuse({evict_when::never, -1}, 2, "never scored");
  refuse({evict_when::dropping, 0}, 1, "drops tokens must lie above its source");
  refuse({evict_when::dropping, -1}, 3, "drops tokens must lie above its source");

  std::array<source_band, 2> const two{source_band{0, 0}, source_band{2, 3}};
  std::array<layer_plan, 4> layers;
  own_source(layers.data(), 4, evict_when::after_attending);
  layers[2] = {evict_when::before_attending, 0};
  CHECK(std::string(validate(make(layers, two)).message).find("a source must attend to all") != std::string::npos);

  layers[2] = {evict_when::dropping, 0};
  layers[3] = {evict_when::dropping, 0};
  CHECK(std::string(validate(make(layers, two)).message).find("a source must attend to all") != std::string::npos);

  // First, middle and last of a band, whoever reads it.
  std::array<source_band, 1> const wide{source_band{0, 2}};
  for (std::size_t l = 0; l < 4; ++l) {
    one_source(layers.data(), 4, wide[0]);
    layers[l] = {evict_when::never, -1};
    CHECK(validate(make(layers, wide)).ok() == (l == 3));
  }

  for (source_band band : {source_band{-1, 0}, source_band{2, 1}, source_band{0, 4}}) {
    std::array<source_band, 1> const bad{band};
    std::array<layer_plan, 4> const none{};
    CHECK(validate(make(none, bad)).code == errc::bad_policy);
  }
  CHECK(validate(schedule{}).code == errc::bad_shape);
  CHECK(validate(schedule{nullptr, 2, nullptr, 0}).code == errc::null_data);
}

}  // namespace
