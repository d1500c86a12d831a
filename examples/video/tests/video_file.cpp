// SPDX-License-Identifier: Apache-2.0
#include "../video_file.hpp"
#include "../../engine/error.hpp"
#include "../picture.hpp"
#include "../question.hpp"

#include <doctest/doctest.h>
#include <png.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <random>

namespace video {

namespace {

using engine::bad_input;

/// A file of this process that is gone at the end.
struct scratch {
  std::filesystem::path const file =
      std::filesystem::temp_directory_path() / ("purekv_video_" + std::to_string(getpid()) + ".png");
  ~scratch() { std::filesystem::remove(file); }

  void write(std::string const& bytes) const { std::ofstream(file, std::ios::binary) << bytes; }
  std::string read() const {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

picture noise(int width, int height) {
  std::mt19937 random(std::random_device{}());
  picture p{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  for (std::uint8_t& value : p.rgb) value = static_cast<std::uint8_t>(random());
  return p;
}

void write_as(std::filesystem::path const& file, png_uint_32 format, std::vector<std::uint8_t> const& pixels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = image.height = 4;
  image.format = format;
  REQUIRE(png_image_write_to_file(&image, file.c_str(), 0, pixels.data(), 0, nullptr) != 0);
}

}  // namespace

TEST_CASE("what is written is read") {
  scratch const s;
  for (video_shape const& shape : {video_shape{16, 6, 6}, {1, 1, 1}, {3, 5, 5}, {5, 2, 7}, {2, 7, 3}}) {
    CAPTURE(shape.width);
    clip const c{shape, noise(shape.tokens() * 4, 4).rgb};
    write_video(s.file, c);
    clip const read = read_video(s.file, shape.width);
    CHECK(read.shape.frames == shape.frames);
    CHECK(read.shape.height == shape.height);
    CHECK(read.shape.width == shape.width);
    CHECK(read.pixels == c.pixels);
    if (shape.height != shape.width) continue;
    CHECK(read_video(s.file).shape.frames == shape.frames);
    CHECK(read_video(s.file).pixels == c.pixels);
  }
}

TEST_CASE("frames stand side by side, patches in rows, pixels in rows") {
  scratch const s;
  picture const p = noise(3 * 8, 12);  // 3 frames of 3 x 2 patches
  write_png(s.file, p);
  clip const c = read_video(s.file, 2);
  REQUIRE(c.pixels.size() == 3 * 3 * 2 * 48);
  std::size_t i = 0;
  for (int frame = 0; frame < 3; ++frame)
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 2; ++column)
        for (int y = 0; y < 4; ++y)
          for (int x = 0; x < 4; ++x)
            for (int channel = 0; channel < 3; ++channel)
              REQUIRE(c.pixels[i++] ==
                      p.rgb[static_cast<std::size_t>(((row * 4 + y) * 24 + frame * 8 + column * 4 + x) * 3 + channel)]);
}

TEST_CASE("pictures of any kind") {
  scratch const s;
  std::vector<std::uint8_t> grey(16), clear(64, 200);
  for (std::size_t i = 0; i < 16; ++i) {
    grey[i] = static_cast<std::uint8_t>(17 * i);
    clear[4 * i + 3] = i < 8 ? 0 : 255;
  }
  write_as(s.file, PNG_FORMAT_GRAY, grey);
  for (std::size_t i = 0; i < 48; ++i) CHECK(read_png(s.file).rgb[i] == grey[i / 3]);
  write_as(s.file, PNG_FORMAT_RGBA, clear);
  for (std::size_t i = 0; i < 48; ++i) CHECK(read_png(s.file).rgb[i] == (i < 24 ? 0 : 200));

  // 4 x 4 pixels of grey in 16 bits, all 0x4D4D, without a word about gamma.
  constexpr auto deep = std::to_array<unsigned char>(
      {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00,
       0x00, 0x04, 0x00, 0x00, 0x00, 0x04, 0x10, 0x00, 0x00, 0x00, 0x00, 0xdc, 0x0a, 0x1d, 0xe1, 0x00, 0x00, 0x00,
       0x0e, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0xf0, 0x85, 0x02, 0x06, 0xdc, 0x0c, 0x00, 0xad, 0x64, 0x09,
       0xa1, 0x60, 0x76, 0xc3, 0x7b, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82});
  s.write({deep.begin(), deep.end()});
  CHECK(read_png(s.file).rgb == std::vector<std::uint8_t>(48, 0x4D));
}

TEST_CASE("files that are no videos") {
  scratch const s;
  auto const refused = [&](char const* why, int width = 0) {
    CAPTURE(width);
    CHECK_THROWS_WITH_AS(read_video(s.file, width), doctest::Contains(why), bad_input);
    CHECK_THROWS_WITH_AS(read_video(s.file, width), doctest::Contains(s.file.c_str()), bad_input);
  };
  refused("No such file");
  s.write("");
  refused("");
  s.write("GIF89a, or so it says, and goes on for a while");
  refused("PNG");
  write_png(s.file, noise(24, 10));
  refused("24 x 10 pixels: width and height must be multiples of 4");
  write_png(s.file, noise(26, 12));
  refused("26 x 12 pixels: width and height must be multiples of 4");
  write_png(s.file, noise(28, 12));
  refused("28 x 12 pixels are not whole frames of 12 x 12; frames are squares unless told otherwise");
  refused("28 x 12 pixels are not whole frames of 8 x 12", 2);
  refused("28 x 12 pixels are not whole frames of 64 x 12", 16);
  write_png(s.file, noise(4100, 4096));
  refused("4100 x 4096 pixels are too many");

  write_png(s.file, noise(24, 24));
  std::string const whole = s.read();
  s.write(whole.substr(0, whole.size() / 2));
  refused("");
  std::string damaged = whole;
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
  s.write(damaged);
  refused("");
}

TEST_CASE("what cannot be written") {
  scratch const s;
  CHECK_THROWS_WITH_AS(write_video("/no/such/folder/video.png", {{1, 1, 1}, std::vector<std::uint8_t>(48)}),
                       "/no/such/folder/video.png: No such file or directory", bad_input);
  CHECK_THROWS_WITH_AS(write_video(s.file, {{2, 3, 1}, std::vector<std::uint8_t>(48)}),
                       "the video has 48 values, not 48 for each of 6 patches", bad_input);
  CHECK_THROWS_WITH_AS(write_video(s.file, {{2, 0, 1}, {}}), "the video has no frames, height or width", bad_input);
  CHECK(!std::filesystem::exists(s.file));
}

TEST_CASE("the example videos are those of make_video with their number as the index") {
  for (unsigned index = 0; index < 4; ++index) {
    CAPTURE(index);
    std::filesystem::path const file = std::filesystem::path(EXAMPLE_VIDEOS) / (std::to_string(index) + ".png");
    clip const c = read_video(file);
    CHECK(c.shape.frames == 16);
    CHECK(c.pixels == make_example(2, index, {}, 0).pixels);
  }
}

}  // namespace video
