# SPDX-License-Identifier: Apache-2.0
# Symbols of purekv or std that several files may define (weak, or unique) must name LEVEL's namespace.
set(namespace_baseline baseline)
set(namespace_v3 avx2)
set(namespace_v4 avx512)

execute_process(COMMAND ${NM} -C --defined-only ${OBJECT} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]+" shared "${symbols}")
list(LENGTH shared count)
if(count EQUAL 0)
  message(FATAL_ERROR "${OBJECT} holds no shared symbol: nothing was checked")
endif()
foreach(symbol IN LISTS shared)
  if(symbol MATCHES "purekv::|std::" AND NOT symbol MATCHES "v0_1::${namespace_${LEVEL}}::")
    message(SEND_ERROR "outside the instruction set's namespace: ${symbol}")
  endif()
endforeach()
message(STATUS "${count} shared symbols")
