# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/purekv)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/purekv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS purekv EXPORT purekv INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT purekv FILE purekv-targets.cmake NAMESPACE purekv:: DESTINATION ${package_dir})

write_basic_package_version_file(${PROJECT_BINARY_DIR}/purekv-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/purekv-config.cmake ${PROJECT_BINARY_DIR}/purekv-config-version.cmake
              ${CMAKE_CURRENT_LIST_DIR}/dispatch.cmake ${CMAKE_CURRENT_LIST_DIR}/dispatch_symbols.cmake
        DESTINATION ${package_dir})
