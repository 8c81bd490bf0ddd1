#include <gmock/gmock.h>

#include "kv_store/journal/database_ways.h"

/// GoogleTest's, of a program that opens databases.
int main(int argc, char** argv) {
  if (const auto status = tandem::kv_store::RunDatabaseTrial({argv, argv + argc})) return *status;
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
