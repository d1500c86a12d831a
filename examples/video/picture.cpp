// SPDX-License-Identifier: Apache-2.0
#include "picture.hpp"

#include "../engine/error.hpp"

#include <png.h>

#include <memory>
#include <string>

namespace video {

namespace {

constexpr std::size_t most_pixels = std::size_t{1} << 24;  // a damaged header must not ask for terabytes

png_image new_image() {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  return image;
}

[[noreturn]] void refuse(std::filesystem::path const& file, std::string const& why) {
  throw engine::bad_input(file.string() + ": " + why);
}

}  // namespace

picture read_png(std::filesystem::path const& file) {
  png_image image = new_image();
  std::unique_ptr<png_image, decltype(&png_image_free)> const owner(&image, png_image_free);
  if (png_image_begin_read_from_file(&image, file.c_str()) == 0) refuse(file, image.message);
  std::size_t const pixels = std::size_t{image.width} * image.height;
  if (pixels > most_pixels)
    refuse(file, std::to_string(image.width) + " x " + std::to_string(image.height) + " pixels are too many");
  image.format = PNG_FORMAT_RGB;
  image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // image editors mean that, unless the file says otherwise
  picture result{static_cast<int>(image.width), static_cast<int>(image.height), std::vector<std::uint8_t>(3 * pixels)};
  if (png_image_finish_read(&image, nullptr, result.rgb.data(), 0, nullptr) == 0) refuse(file, image.message);
  return result;
}

void write_png(std::filesystem::path const& file, picture const& p) {
  png_image image = new_image();
  image.width = static_cast<png_uint_32>(p.width);
  image.height = static_cast<png_uint_32>(p.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, file.c_str(), 0, p.rgb.data(), 0, nullptr) == 0) refuse(file, image.message);
}

}  // namespace video
