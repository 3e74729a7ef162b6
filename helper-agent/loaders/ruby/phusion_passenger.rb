# frozen_string_literal: true

# What applications may call. The rest of the original's API would do nothing here.
module PhusionPassenger
  @callbacks = Hash.new { |all, name| all[name] = [] }

  class << self
    # How many requests this process takes at once; nil = as many as it has threads. For applications that
    # hijack connections and answer from threads of their own. Read once, when loading is done.
    attr_accessor :advertised_concurrency_level

    # Events: :starting_worker_process (gets `forked`), :stopping_worker_process, :after_installing_signal_handlers,
    # :starting_request_handler_thread, :oob_work. A callback for any other name is kept and never called.
    def on_event(name, &callback)
      @callbacks[name] << callback
    end

    def call_event(name, *args)
      @callbacks[name].each { |callback| callback.call(*args) }
    end

    # `require_passenger_lib 'rack/out_of_band_gc'`.
    def require_passenger_lib(name)
      require "phusion_passenger/#{name}"
    end

    # Old applications call it when they find this module.
    def install_framework_extensions!(*); end
  end
end
