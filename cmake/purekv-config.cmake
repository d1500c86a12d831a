# SPDX-License-Identifier: Apache-2.0
include(${CMAKE_CURRENT_LIST_DIR}/purekv-targets.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/dispatch.cmake)
