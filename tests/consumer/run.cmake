# SPDX-License-Identifier: Apache-2.0
# Builds and runs main.cpp, and the example of purekv_dispatch, as a user would. WAY: package, subdirectory or copy;
# SOURCE, BUILD: of PureKV; WORK: a folder to use up; CXX, FLAGS, GENERATOR.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

if(WAY STREQUAL copy)
  file(COPY ${SOURCE}/include/purekv DESTINATION ${WORK}/third_party)
  separate_arguments(flags UNIX_COMMAND "${FLAGS}")
  run(${CXX} -std=c++20 ${flags} -I${WORK}/third_party ${CMAKE_CURRENT_LIST_DIR}/main.cpp -o ${WORK}/consumer)
  run(${WORK}/consumer)
else()
  if(WAY STREQUAL package)
    run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
    set(where -DCMAKE_PREFIX_PATH=${WORK}/prefix)
  else()
    set(where -DPUREKV=${SOURCE})
  endif()
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${WAY} -B ${WORK}/build -G ${GENERATOR} ${where}
      -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${FLAGS})
  run(${CMAKE_COMMAND} --build ${WORK}/build)
  run(${WORK}/build/consumer)
  run(${WORK}/build/dispatched)
endif()
