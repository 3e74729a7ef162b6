# frozen_string_literal: true

# Loads one Rack application (Rack 2 or 3) and serves it to Apache's workers.
#
# Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
# descriptor 4; docs/protocols.md, section 4, is the contract. From top to bottom: the loop over all connections,
# loading. The control socket is in rack-control.rb, what happens on one connection in rack-connection.rb, what
# applications may call in ruby/phusion_passenger.rb.
#
# Only the native part of `socket` is required before Bundler has spoken: any default gem activated earlier (stringio,
# tempfile, and io-wait, which the rest of `socket` needs) could be another version than the one in the application's
# Gemfile.lock.

require 'socket.so'
require_relative 'rack-control'
require_relative 'rack-connection'
require_relative 'ruby/phusion_passenger'

module PassengerLoader
  # Waits for requests on all connections and runs them: in the loop itself, or in threads if several are wanted.
  class Server
    def initialize(app, control, listener, settings)
      @app = app
      @control = control
      @listener = listener
      @peer_uid = settings.peer_uid
      @threads = settings.threads
      @rack2 = Rack.release.to_i < 3
      @limit = [32, 2 * @threads].max
      @connections = {}.compare_by_identity
      @sources = [control.io, listener]
      @turn = 0
      @stopping = false
      @wants_work = nil
      @work = nil
      start_threads if threaded?
    end

    def rack2?
      @rack2
    end

    def stopping?
      @stopping
    end

    def threaded?
      @threads > 1
    end

    def run
      turn until @stopping
      drain
    end

    # A response asked for out-of-band work. Said again after a while: another agent may have taken the place of
    # the one that was told.
    def request_out_of_band_work
      now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      return if @wants_work && now - @wants_work < 10

      @wants_work = now
      @control.say('work-wanted')
    end

    def log_exception(error, env)
      where = env && "#{env['REQUEST_METHOD']} #{env['REQUEST_URI']}: "
      $stderr.write(where.to_s.b << PassengerLoader.story_of(error))
    end

    # In a child the application forked: let go of what belongs to the parent, without disturbing it.
    def forget
      [@control.io, @listener, @wake_in, @wake_out, *@connections.keys].each { |io| io&.close }
      @connections.clear
    end

    private

    def turn
      ready, = IO.select(@sources)
      @turn += 1
      told = false
      ready.each do |io|
        if (connection = @connections[io]) then serve(connection)
        elsif io.equal?(@listener) then accept_all
        elsif io.equal?(@control.io) then told = true
        elsif io.equal?(@wake_out) then take_back
        end
      end
      obey if told
      work_out_of_band if @work
    end

    # No request comes until the agent hears that the work is done. One that its client abandoned may still be in
    # execution in a thread.
    def work_out_of_band
      return if threaded? && !@executing.empty?

      token, @work = @work, nil
      PhusionPassenger.call_event(:oob_work) if @wants_work
      @wants_work = nil
    rescue StandardError => e
      log_exception(e, nil)
    ensure
      @control.say('work-done', token) if token
    end

    def serve(connection)
      received = connection.receive
      return if received == :wait

      received ? execute(connection) : drop(connection)
    end

    def execute(connection)
      connection.last_used = @turn
      return hand_to_thread(connection) if @pool

      drop(connection) unless connection.answer(@app)
    end

    def drop(connection)
      @connections.delete(connection.io)
      @sources.delete(connection.io)
      connection.io.close unless connection.hijacked?
    end

    def accept_all
      loop do
        io = @listener.accept_nonblock(exception: false)
        return if io == :wait_readable

        admit(io)
      end
    rescue Errno::EINVAL # after shutdown: none left
      nil
    rescue SystemCallError => e # no descriptor left, most likely
      warn "Cannot accept a connection from Apache: #{e.message}"
      make_room
      sleep 0.1 # the listener stays ready: without this the loop would spin
    end

    def admit(io)
      uid, = io.getpeereid
      return io.close unless uid.zero? || uid == @peer_uid

      make_room if @connections.size >= @limit
      connection = Connection.new(io, self)
      connection.last_used = @turn
      @connections[io] = connection
      @sources << io
      serve(connection)
    end

    # Closes the connection that has been idle longest, without losing a request that is on its way.
    def make_room
      idle = @connections.each_value.reject { |connection| busy?(connection) }.min_by(&:last_used)
      return unless idle

      wind_up(idle) ? execute(idle) : drop(idle)
    end

    # True: a last request had arrived. Once reading is shut down the worker's next send fails before it has
    # delivered anything, so that the worker can safely go elsewhere; what it sent before is still readable.
    def wind_up(connection)
      connection.retire
      received = connection.receive
      if received == :wait
        connection.io.shutdown(Socket::SHUT_RD)
        received = connection.receive
      end
      received == true
    end

    def obey
      @control.lines.each do |line|
        case line
        when nil, 'stop' then @stopping = true
        when /\Abusy\? (.+)/ then report(Regexp.last_match(1))
        when /\Awork (.+)/
          @work = Regexp.last_match(1)
          read_what_was_sent
        end
      end
    end

    # Answers only when every request sent before the question has been read.
    def report(token)
      read_what_was_sent
      take_back if threaded?
      @control.say('busy', token, *executing)
    end

    def read_what_was_sent
      accept_all
      ready, = IO.select(@connections.keys, nil, nil, 0)
      ready&.each { |io| @connections[io]&.then { |connection| serve(connection) unless busy?(connection) } }
    end

    # No new connection, then one last look at each.
    def drain
      @listener.shutdown(Socket::SHUT_RD)
      accept_all
      last, over = @connections.values.reject { |connection| busy?(connection) }.partition { |one| wind_up(one) }
      over.each { |connection| drop(connection) }
      last.each { |connection| execute(connection) }
      finish_threads if threaded?
    end

    # --- threads: the loop reads a request's head, a thread does the rest, a pipe wakes the loop ---

    def start_threads
      @executing = {}.compare_by_identity
      @queue = Thread::Queue.new
      @done = Thread::Queue.new
      @wake_out, @wake_in = IO.pipe
      @sources << @wake_out
      @pool = Array.new(@threads) { Thread.new { work } }
    end

    def work
      Thread.current.abort_on_exception = true # a pool that shrinks unseen would be worse
      PhusionPassenger.call_event(:starting_request_handler_thread)
      while (connection = @queue.pop)
        answer_in_thread(connection)
      end
    end

    # An application that ends its own thread (`Thread.exit`) must not leave its request waiting, nor a thread less. The loop
    # makes another: a thread that was begun while the process exits would be waited for without end.
    def answer_in_thread(connection)
      is_alive = again = false
      again = connection.answer(@app)
      is_alive = true
    ensure
      @done << [connection, again, is_alive]
      @wake_in.write_nonblock('.', exception: false)
    end

    def hand_to_thread(connection)
      @executing[connection] = connection.number
      @sources.delete(connection.io)
      @queue << connection
    end

    def take_back
      @wake_out.read_nonblock(4096, exception: false)
      until @done.empty?
        connection, again, is_alive = @done.pop
        @pool << Thread.new { work } unless is_alive || @queue.closed?
        @executing.delete(connection)
        again ? @sources << connection.io : drop(connection)
      end
    end

    def finish_threads
      @queue.close
      @pool.each(&:join)
      take_back
      @connections.each_value.select { |connection| wind_up(connection) }.each { |last| last.answer(@app) }
    end

    def busy?(connection)
      threaded? && @executing.key?(connection)
    end

    def executing
      threaded? ? @executing.values : []
    end
  end

  # What the agent wants, from the environment, which is then cleaned: the application's children have no use for it.
  Settings = Struct.new(:app_root, :startup_file, :group_name, :peer_uid, :threads, :preload) do
    def self.take
      new(ENV.delete('PASSENGER_APP_ROOT') || Dir.pwd,
          ENV.delete('PASSENGER_STARTUP_FILE') || File.join(Dir.pwd, 'config.ru'),
          ENV.delete('PASSENGER_APP_GROUP_NAME').to_s,
          ENV.delete('PASSENGER_PEER_UID').to_i,
          [ENV.delete('PASSENGER_THREADS').to_i, 1].max,
          ENV.delete('PASSENGER_PRELOAD') == '1')
    end
  end

  class << self
    def main
      $stdout.sync = $stderr.sync = true
      read_files_as_utf8
      settings = Settings.take
      control = Control.new(3)
      settings.preload ? preload(control, settings) : run(control, settings)
    end

    private

    # Debian's httpd runs in the locale C, in which Ruby takes all files for ASCII: an umlaut in a comment of config.ru
    # would keep an application from starting.
    def read_files_as_utf8
      return unless Encoding.default_external == Encoding::US_ASCII

      verbose, $VERBOSE = $VERBOSE, nil # it warns of what it is asked to do
      Encoding.default_external = Encoding::UTF_8
      $VERBOSE = verbose
    end

    def run(control, settings)
      listener = listen(4)
      $0 = "Passenger RubyApp: #{settings.group_name}"
      work(load_app(control, settings), control, listener, settings, false)
    end

    # After `fork_workers` in each of the workers.
    def preload(control, settings)
      require_relative 'rack-preloader'
      preloader = Preloader.new(control, settings.app_root)
      app = load_app(control, settings)
      control, descriptor = preloader.fork_workers
      $0 = "Passenger RubyApp: #{settings.group_name}"
      work(app, control, listen(descriptor), settings, true)
    end

    def listen(descriptor)
      listener = UNIXServer.for_fd(descriptor)
      listener.close_on_exec = true
      listener
    end

    def load_app(control, settings)
      control.say('step', 'load')
      reporting('load', control, settings) do
        set_up_load_path
        # First, so that an application that has the original in its Gemfile gets ours.
        $LOAD_PATH.unshift(File.join(__dir__, 'ruby'))
        require 'socket'
        require 'stringio'
        require_rack
        build(settings.startup_file)
      end
    end

    def work(app, control, listener, settings, forked)
      reporting(forked ? 'fork' : 'load', control, settings) do
        PhusionPassenger.call_event(:starting_worker_process, forked)
      end
      control.say('step', 'listen')
      serve(app, control, listener, settings)
    end

    def reporting(step, control, settings)
      yield
    rescue Exception => e # rubocop:disable Lint/RescueException -- whatever it was, the administrator must read it
      $stderr.write(PassengerLoader.story_of(e))
      control.error(step, explain(e, settings.startup_file))
      exit!(1)
    end

    # The first that exists, as the original does it.
    def set_up_load_path
      if File.exist?('config/setup_load_paths.rb')
        require File.expand_path('config/setup_load_paths.rb')
      elsif File.exist?('.bundle/environment.rb')
        require File.expand_path('.bundle/environment.rb')
      elsif ENV['BUNDLE_GEMFILE'] || File.exist?('Gemfile') || File.exist?('gems.rb')
        require 'bundler/setup'
      end
    rescue LoadError => e
      raise unless e.path == 'bundler/setup'

      warn 'The application has a Gemfile but Bundler is not installed: it runs with the gems of the system.'
    end

    def require_rack
      require 'rack'
    rescue LoadError => e
      raise unless e.path == 'rack'

      raise LoadError, "The gem 'rack' was not found by #{RbConfig.ruby}: add it to the Gemfile, or install it " \
                       "with 'gem install rack' or the package ruby-rack"
    end

    # Rack 2's parse_file returns [app, options], Rack 3's the app.
    def build(file)
      built = if file.end_with?('.ru')
                Rack::Builder.parse_file(file)
              else
                Rack::Builder.new_from_string(File.read(file), file)
              end
      built.is_a?(Array) ? built.first : built
    end

    # Bytes: a path, a message and a class may each have an encoding of their own.
    def explain(error, file)
      return "#{file} called exit (status #{error.status}) while it was loaded" if error.is_a?(SystemExit)

      place = error.backtrace_locations&.find { |location| !location.path.start_with?('<internal', __FILE__) }
      at = place ? [' (', place.path, ':', place.lineno, ')'] : []
      first = error.message.b.lines.first.to_s.chomp
      [error.class, ' while loading ', file, ': ', first, *at].map { |part| part.to_s.b }.join
    end

    def serve(app, control, listener, settings)
      server = Server.new(app, control, listener, settings)
      handle_signals(control)
      let_go_in_children(server)
      concurrency = PhusionPassenger.advertised_concurrency_level || settings.threads
      control.say('ready', "concurrency=#{concurrency}", 'protocol=binary')
      server.run
    ensure
      PhusionPassenger.call_event(:stopping_worker_process) if server
    end

    def handle_signals(control)
      trap('TERM') { control.end_of_input }
      trap('USR1') { control.say('leave') }
      trap('HUP') { nil }
      trap('QUIT') do
        lines = Thread.list.flat_map { |thread| [thread.inspect, *thread.backtrace&.map { |line| "  #{line}" }] }
        $stderr.write(lines.map { |line| line.b << "\n" }.join)
      end
      PhusionPassenger.call_event(:after_installing_signal_handlers)
    end

    # Close-on-exec does nothing for a plain `fork`: a child that kept our sockets would make a dead process
    # look alive, and its SIGTERM would shut down the parent's control socket. Ruby 3.1 and later.
    def let_go_in_children(server)
      Process.singleton_class.prepend(Module.new do
        define_method(:_fork) do
          pid = super()
          if pid.zero?
            %w[TERM USR1 HUP QUIT].each { |name| trap(name, 'DEFAULT') }
            server.forget
          end
          pid
        end
      end)
    end
  end
end

PassengerLoader.main
