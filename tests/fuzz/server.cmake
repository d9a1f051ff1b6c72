phid_fuzz(settings LIBS phi_config)
