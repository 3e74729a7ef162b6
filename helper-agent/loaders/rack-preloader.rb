# frozen_string_literal: true

# A process that has loaded an application and forks its workers, which share that memory until they write to it.
# docs/protocols.md, section 4 ("Preloader"), is the contract; what a worker then does is in rack-loader.rb.
#
# A worker is the child of a child that ends at once, so that it becomes the agent's child: the agent watches and
# reaps it like any other process, and it outlives the preloader.

module PassengerLoader
  # Forks a worker whenever the agent asks for one.
  class Preloader
    # Before the application is loaded: the output that the agent gave us, if the application replaces it later.
    def initialize(control, app_root)
      @control = control
      @output = STDERR.stat.ino
      $0 = "Passenger AppPreloader: #{app_root}"
      trap('TERM') { exit!(0) }
    end

    # Returns in each worker: its control socket and listener. The preloader itself ends in here, without the
    # application's at_exit blocks: these are for the workers, which may still use what they would clean up.
    def fork_workers
      let_go_of_databases
      warn_of_shared_connections
      collect_garbage
      @control.say('preloaded')
      handed = []
      loop do
        lines, descriptors = @control.lines_with_descriptors
        handed.concat(descriptors)
        lines.each do |line|
          exit!(0) if line.nil? || line == 'stop'
          next unless line == 'fork'

          worker = fork_worker(*handed.shift(3))
          return worker if worker
        end
      end
    end

    private

    # nil in the preloader.
    def fork_worker(control, listener, output)
      gate_out, gate_in = IO.pipe
      if (child = fork)
        [control, listener, output, gate_out].each(&:close)
        Process.wait(child)
        gate_in.close # Only now is the worker the agent's child, and says that it is there.
        return
      end
      leave_the_child
      gate_in.close
      become_worker(output)
      gate_out.read
      gate_out.close
      take_over(control, listener)
    rescue SystemCallError => e
      # The agent sees that nobody has the worker's sockets any more, and starts a process without us.
      @control.error('fork', "cannot fork: #{e.message}")
      [gate_out, gate_in, control, listener, output].each { |io| io&.close }
      nil
    end

    # Goes on in a child of this child, which ends here.
    def leave_the_child
      exit!(0) if fork
    rescue SystemCallError => e
      warn "Cannot fork: #{e.message}"
      exit!(1)
    end

    # What an application has redirected itself stays as it is.
    def become_worker(output)
      Process.setsid
      [STDOUT, STDERR].each do |stream|
        next if stream.closed? || stream.stat.ino != @output

        stream.reopen(output)
        stream.sync = true
      end
      output.close
    rescue SystemCallError => e
      warn "Cannot become a worker: #{e.message}"
      exit!(1)
    end

    def take_over(control, listener)
      @control.io.close
      [control, listener].each { |io| io.autoclose = false }
      mine = Control.new(control.fileno)
      mine.say('step', 'fork')
      mine.await_go
      [mine, listener.fileno]
    end

    # A connection that several processes use is a broken one. Both libraries connect anew when they are asked.
    def let_go_of_databases
      if defined?(::ActiveRecord::Base)
        # Before 7.1 `:all` would be the name of a role that nobody has.
        version = [::ActiveRecord::VERSION::MAJOR, ::ActiveRecord::VERSION::MINOR]
        roles = (version <=> [7, 1]).negative? ? [] : [:all]
        ::ActiveRecord::Base.connection_handler.clear_all_connections!(*roles)
      end
      ::Sequel::DATABASES.each(&:disconnect) if defined?(::Sequel::DATABASES)
    rescue StandardError => e
      warn 'Cannot close the database connections before forking: '.b << PassengerLoader.story_of(e)
    end

    def warn_of_shared_connections
      peers = Dir.children('/proc/self/fd').filter_map { |number| peer_of(number.to_i) }
      return if peers.empty?

      warn 'The application opened connections while it was loaded, which all its processes will share: ' \
           "#{peers.uniq.join(', ')}. Open them in PhusionPassenger.on_event(:starting_worker_process), or set " \
           'PassengerSpawnMethod direct.'
    end

    def peer_of(descriptor)
      return if descriptor == @control.io.fileno || !File.readlink("/proc/self/fd/#{descriptor}").start_with?('socket:')

      socket = BasicSocket.for_fd(descriptor)
      socket.autoclose = false
      address = socket.remote_address
      address.inspect_sockaddr unless address.unix? && address.unix_path.empty?
    rescue SystemCallError, SocketError
      nil
    end

    # A collection marks survivors as older in the objects themselves until they are old, which would unshare their
    # memory in each worker. Ruby 3.3 has a word for it; before, the third collection makes them old.
    def collect_garbage
      return Process.warmup if Process.respond_to?(:warmup)

      GC.start
      3.times { GC.start(full_mark: false) }
    end
  end

  # What only a preloader and its workers do with the control socket.
  class Control
    # The lines that have come (a final nil means that it is time to go), and the descriptors that came with them.
    # Waits for the next piece.
    def lines_with_descriptors
      piece, _sender, _flags, *messages = @io.recvmsg(4096, 0, nil, scm_rights: true)
      descriptors = messages.flat_map { |message| message.unix_rights || [] }
      return [[nil], descriptors] if piece.nil? || piece.empty?

      @input << piece
      [@input.slice!(/\A.*\n/m).to_s.split("\n"), descriptors]
    rescue SystemCallError
      [[nil], []]
    end

    # A worker goes on when the agent knows it. The end before that means that nobody does.
    def await_go
      exit!(0) unless @io.recv(3, Socket::MSG_WAITALL) == "go\n"
    end
  end
end
