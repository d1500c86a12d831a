# SPDX-License-Identifier: Apache-2.0
# purekv_dispatch(TARGET SOURCES FILE... [LEVELS LEVEL...])
#
# Compiles SOURCES for each of LEVELS (baseline, avx2, avx512; default: all), with all that TARGET is compiled with,
# links them into TARGET, and defines PUREKV_LEVELS there: choose<Table, PUREKV_LEVELS>(table) of purekv/dispatch.hpp
# takes the best that the machine runs. Call it where TARGET is made. TARGET itself must be compiled for the oldest
# machine: no -march=native. Beside x86-64 there is one level, that of TARGET.
function(purekv_dispatch target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LEVELS")
  if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "purekv_dispatch(TARGET SOURCES FILE... [LEVELS LEVEL...])")
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    target_sources(${target} PRIVATE ${arg_SOURCES})
    target_compile_definitions(${target} PRIVATE PUREKV_LEVELS=::purekv::this_isa)
    return()
  endif()

  set(march_baseline x86-64)
  set(march_avx2 x86-64-v3)
  set(march_avx512 x86-64-v4)
  if(NOT arg_LEVELS)
    set(arg_LEVELS baseline avx2 avx512)
  endif()
  foreach(level IN LISTS arg_LEVELS)
    if(NOT DEFINED march_${level})
      message(FATAL_ERROR "purekv_dispatch: no level ${level}: baseline, avx2, avx512")
    endif()
    list(APPEND levels ::purekv::isa::${level})
    set(object ${target}_${level})
    add_library(${object} OBJECT ${arg_SOURCES})
    foreach(property INCLUDE_DIRECTORIES COMPILE_DEFINITIONS COMPILE_OPTIONS COMPILE_FEATURES)
      set_property(TARGET ${object} PROPERTY ${property} $<TARGET_PROPERTY:${target},${property}>)
    endforeach()
    foreach(property CXX_STANDARD CXX_EXTENSIONS POSITION_INDEPENDENT_CODE)
      get_target_property(value ${target} ${property})
      if(NOT value MATCHES "NOTFOUND$")
        set_property(TARGET ${object} PROPERTY ${property} ${value})
      endif()
    endforeach()
    target_link_libraries(${object} PRIVATE purekv::purekv)
    # Unoptimised, constructors that are inlined otherwise become functions that levels share.
    target_compile_options(${object} PRIVATE -march=${march_${level}} $<$<IN_LIST:$<CONFIG>,$<SEMICOLON>Debug>:-O1>)
    target_compile_definitions(${object} PRIVATE PUREKV_LEVEL=${level})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
    if(NOT level STREQUAL baseline)
      add_custom_command(TARGET ${target} PRE_LINK VERBATIM
        COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DLEVEL=${level} "-DOBJECTS=$<TARGET_OBJECTS:${object}>"
                -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/dispatch_symbols.cmake)
    endif()
  endforeach()
  list(JOIN levels "," levels)
  target_compile_definitions(${target} PRIVATE PUREKV_LEVELS=${levels})
endfunction()
