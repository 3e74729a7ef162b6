# frozen_string_literal: true

# What a Ruby process tells the agent and the log: the control socket, and failures in words. Needs nothing but the
# native part of `socket`, because it works before Bundler has spoken.

module PassengerLoader
  # Lines to and from the agent.
  class Control
    attr_reader :io

    def initialize(descriptor)
      @io = UNIXSocket.for_fd(descriptor)
      @io.close_on_exec = true
      @input = String.new
    end

    # Sends one line. That the agent is gone is noticed by reading, not here. One system call and no Ruby
    # lock, because signal handlers call it.
    def say(*words)
      @io.syswrite("#{words.join(' ')}\n")
    rescue SystemCallError, IOError
      nil
    end

    def error(step, text)
      text = text.dup.force_encoding(Encoding::UTF_8).scrub('?')
      text = "#{text[0, 1500]}…" if text.length > 1500
      say('error', step, text.gsub(/[\\\n\r]/, '\\' => '\\\\', "\n" => '\\n', "\r" => '\\r'))
    end

    # The lines that have arrived; a final nil means that it is time to go.
    def lines
      while (read = @io.read_nonblock(4096, exception: false)).is_a?(String)
        @input << read
      end
      lines = @input.slice!(/\A.*\n/m).to_s.split("\n")
      read.nil? ? lines << nil : lines
    rescue SystemCallError
      [nil]
    end

    # SIGTERM's way to the loop: this end sees "end of file", which wakes `select` without a second pipe.
    def end_of_input
      @io.shutdown(Socket::SHUT_RD)
    rescue SystemCallError, IOError
      nil
    end
  end

  # An exception with its backtrace, as bytes. `full_message` fails itself where the parts have different encodings,
  # as paths in an odd locale.
  def self.story_of(error)
    error.full_message(highlight: false).b
  rescue EncodingError
    lines = ["#{error.class}: ".b << error.message.b]
    lines.concat(error.backtrace.to_a.map { |line| "\tfrom ".b << line.b })
    lines.join("\n") << "\n"
  end
end
