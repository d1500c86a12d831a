# SPDX-License-Identifier: Apache-2.0
# OBJECTS were compiled for LEVEL. A function that other files may define too (weak) must lie in LEVEL's namespace: the
# linker takes one for the whole program, and a machine that does not run LEVEL would run it.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]+" shared "${symbols}")
  foreach(symbol IN LISTS shared)
    # typeinfo, which sanitizers add, is the same data at every level.
    if(symbol MATCHES " W .*[(:]|purekv::" AND NOT symbol MATCHES "v0_1::${LEVEL}::| V typeinfo ")
      message(SEND_ERROR "${object}: outside the namespace of ${LEVEL}, so that other levels may run it: ${symbol}\n"
                         "Make it static or put it into an unnamed namespace; if it is of std, optimise or do without.")
    endif()
  endforeach()
endforeach()
