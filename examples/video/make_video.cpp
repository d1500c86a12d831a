// examples/video/make_video.cpp: writes a synthetic video as a PNG strip, and says what may be asked about it.
// SPDX-License-Identifier: Apache-2.0
#include "../engine/error.hpp"
#include "../engine/options.hpp"
#include "question.hpp"
#include "video_file.hpp"

#include <CLI/CLI.hpp>

#include <iostream>

namespace {

int run(int argc, char** argv) {
  std::filesystem::path file;
  video::video_shape shape;
  std::uint64_t seed = 2, index = 0;
  int questions = 5;
  CLI::App app{"Writes a synthetic video as a PNG strip, its frames side by side, and prints questions with answers."};
  app.add_option("file", file, "PNG file to write")->required();
  app.add_option("--frames", shape.frames, "of the video")->capture_default_str()->check(CLI::Range(1, 16));
  app.add_option("--height", shape.height, "of a frame, in patches")->capture_default_str()->check(CLI::Range(2, 16));
  app.add_option("--width", shape.width, "of a frame, in patches")->capture_default_str()->check(CLI::Range(2, 16));
  app.add_option("--seed", seed, "of the videos; the model was trained on 1")->capture_default_str();
  app.add_option("--index", index, "of the video")->capture_default_str();
  app.add_option("--questions", questions, "how many")->capture_default_str()->check(CLI::NonNegativeNumber);
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    throw engine::bad_input(e.what());
  }
  video::example const e = video::make_example(seed, index, shape, questions);
  video::write_video(file, {shape, e.pixels});
  for (video::question const& q : e.questions) std::cout << q.text << ' ' << q.answer << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return engine::report_errors("make_video", run, argc, argv); }
