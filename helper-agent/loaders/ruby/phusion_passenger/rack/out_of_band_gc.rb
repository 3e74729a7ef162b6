# frozen_string_literal: true

module PhusionPassenger
  module Rack
    # Collects garbage between requests, every `frequency` of them:
    #
    #   use PhusionPassenger::Rack::OutOfBandGc, 5
    #   use PhusionPassenger::Rack::OutOfBandGc, 5, :gctools_oobgc   # as the gem gctools does it
    class OutOfBandGc
      HEADER = '!~Request-OOB-Work'

      def initialize(app, frequency, strategy = nil)
        raise ArgumentError, 'the frequency of OutOfBandGc must be at least 1' unless Integer(frequency).positive?
        raise ArgumentError, "OutOfBandGc knows no strategy #{strategy}" unless [nil, :gctools_oobgc].include?(strategy)

        @app = app
        @frequency = Integer(frequency)
        @requests = 0
        @mutex = Mutex.new
        @strategy = strategy
        prepare_gctools if @strategy
        PhusionPassenger.on_event(:oob_work) { collect }
      end

      def call(env)
        status, headers, body = @app.call(env)
        headers = headers.merge(HEADER => 'true') if due?
        [status, headers, body]
      end

      private

      def due?
        @mutex.synchronize { ((@requests += 1) % @frequency).zero? }
      end

      def prepare_gctools
        require 'gctools/oobgc'
        GC::OOB.setup
      end

      def collect
        return GC::OOB.run if @strategy

        was_disabled = GC.enable
        GC.start
        GC.disable if was_disabled
      end
    end
  end
end
