# frozen_string_literal: true

module PhusionPassenger
  module Rack
    # Collects garbage between requests, in one of two ways: every so many requests, or when the gem gctools finds it
    # worth while.
    #
    #   use PhusionPassenger::Rack::OutOfBandGc, 5
    #   use PhusionPassenger::Rack::OutOfBandGc, strategy: :counting, frequency: 5, logger: Rails.logger
    #   use PhusionPassenger::Rack::OutOfBandGc, strategy: :gctools_oobgc
    class OutOfBandGc
      HEADER = '!~Request-OOB-Work'

      # The older form has the frequency first, and then a logger (or, instead of one, the strategy).
      def initialize(app, frequency = nil, logger = nil, **options)
        frequency, options = nil, frequency if frequency.is_a?(Hash)
        strategy, logger = logger, nil if logger.is_a?(Symbol)
        @app = app
        @logger = options.fetch(:logger, logger)
        @strategy = options[:strategy] || strategy || :counting
        @frequency = options.fetch(:frequency, frequency)
        @requests = 0
        @mutex = Mutex.new
        prepare
        PhusionPassenger.on_event(:oob_work) { work }
      end

      def call(env)
        status, headers, body = @app.call(env)
        headers = headers.merge(HEADER => 'true') if due?
        [status, headers, body]
      end

      private

      def prepare
        case @strategy
        when :counting
          @frequency = Integer(@frequency)
          raise ArgumentError, 'the frequency of OutOfBandGc must be at least 1' unless @frequency.positive?
        when :gctools_oobgc
          require 'gctools/oobgc'
          GC::OOB.setup # once more does no harm
        else
          raise ArgumentError, "OutOfBandGc knows no strategy #{@strategy.inspect}"
        end
      end

      def due?
        return GC::OOB.dry_run if @strategy == :gctools_oobgc

        @mutex.synchronize { ((@requests += 1) % @frequency).zero? }
      end

      def work
        began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
        @strategy == :gctools_oobgc ? GC::OOB.run : collect
        took = Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
        @logger&.info(format('Collected garbage out of band in %.1f ms', took * 1000))
      end

      def collect
        was_disabled = GC.enable
        GC.start
        GC.disable if was_disabled
      end
    end
  end
end
