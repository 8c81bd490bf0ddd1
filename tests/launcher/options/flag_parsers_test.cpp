#include "launcher/options/flag_parsers.h"

#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

TEST(FlagParsers, SizesAreReadWithTheUnitsThatHelpPrints) {
  constexpr int64_t kGiB = int64_t{1} << 30;
  EXPECT_EQ(*ParseSize("1024"), 1024);
  EXPECT_EQ(*ParseSize("7B"), 7);
  for (const char* word : {"3GiB", "3 GiB", "3gib", "3G", "3g", "3GB", "3.0GiB"}) {
    EXPECT_EQ(*ParseSize(word), 3 * kGiB) << word;
  }
  EXPECT_EQ(*ParseSize("1.5GiB"), kGiB * 3 / 2);
  EXPECT_EQ(*ParseSize("1TiB"), kGiB << 10);
  EXPECT_EQ(*ParseSize("1PiB"), kGiB << 20);
  for (const char* word : {"", "GiB", "-1", "1.5", "1EiB", "1  GiB", "1 ", "0x1", "1e3", "8192PiB",
                           "8191.99PiBs", "9999999.5PiB", "nan"}) {
    EXPECT_FALSE(ParseSize(word).ok()) << word;
  }
}

TEST(FlagParsers, NumbersAreDecimal) {
  EXPECT_EQ(ParseNumber<int64_t>("-010"), -10);
  EXPECT_EQ(ParseNumber<uint64_t>("18446744073709551615"), ~uint64_t{0});
  EXPECT_EQ(ParseNumber<double>("1e-3"), 1e-3);
  for (const char* word : {"", "0x10", "+1", " 1", "1 ", "1.5", "18446744073709551616"}) {
    EXPECT_EQ(ParseNumber<uint64_t>(word), std::nullopt) << word;
  }
  EXPECT_EQ(ParseNumber<double>("0x1p3"), std::nullopt);
}

}  // namespace
}  // namespace tandem::launcher
