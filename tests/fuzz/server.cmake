phid_fuzz(settings LIBS phi_config)
phid_fuzz(request LIBS phi_server PkgConfig::JANSSON)
phid_fuzz(archive LIBS phi_server)
