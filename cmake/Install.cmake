# cmake --install: a folder that can be moved anywhere.
#   bin/steadyflux
#   lib/steadyflux/torch/lib, lib/steadyflux/nvidia/*/lib   libtorch, in the wheel's own layout, so
#                                                           that its libraries find each other
#   share/steadyflux/models                                 the bundled model
# The CUDA libraries go along where they are all there (setup.sh --cuda). Debian's libraries
# (ICU, fmt) are left to the system.
set_target_properties(steadyflux PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/steadyflux/torch/lib")
install(TARGETS steadyflux RUNTIME DESTINATION bin)
install(DIRECTORY models/ DESTINATION share/steadyflux/models)
install(FILES LICENSE DESTINATION share/steadyflux)
install(CODE "set(torch_root \"${STEADYFLUX_TORCH_ROOT}\")")
install(SCRIPT cmake/InstallLibtorch.cmake)
