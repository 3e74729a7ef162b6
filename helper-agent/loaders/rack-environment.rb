# frozen_string_literal: true

# The Rack environment of a request's head. All of a request's strings are made here, so it is written for speed: the
# constant part is copied as a whole, names that every request has are never made again.

module PassengerLoader
  module Environment
    # What workers say first, in this order, of each request (docs/protocols.md, section 4).
    FIRST = %w[REQUEST_METHOD SCRIPT_NAME PATH_INFO QUERY_STRING REQUEST_URI SERVER_NAME SERVER_PORT SERVER_PROTOCOL
               SERVER_SOFTWARE REMOTE_ADDR REMOTE_PORT].freeze
    # Takes the request's header, skips each of the names and takes their values, then the rest. With a number those that say
    # which server was asked, mostly the same from one request to the next, come as one piece of so many bytes.
    IN_ORDER = Hash.new do |formats, site_bytes|
      values = ->(names) { names.map { |name| "x#{name.bytesize + 1}Z*" }.join }
      site = site_bytes ? "a#{site_bytes}" : values[SITE]
      formats[site_bytes] = "NNa8Q>#{values[FIRST[0, 5]]}#{site}#{values[FIRST[9..]]}a*"
    end
    SITE = FIRST[5, 4].freeze
    # Longer ones, and after so many different ones all, are not remembered: clients choose them.
    SITE_BYTES = 512
    MOST_SITES = 16
    CONSTANT = {
      'rack.version' => [1, 3].freeze, 'rack.url_scheme' => 'http', 'rack.multiprocess' => true,
      'rack.run_once' => false, 'rack.hijack?' => true
    }.freeze
    # Other names, as keys: a hash copies and looks up each key that is not frozen. False: not for a request to say.
    # Clients choose them, so the number is bounded.
    NAMES = {} # rubocop:disable Style/MutableConstant
    MOST_NAMES = 1024

    private

    # The environment of the request in `@buffer`, whose head is followed by `come` bytes of the body.
    def environment_of_request(come)
      @template = template unless @template && @errors.equal?($stderr)
      env = @is_in_order && @pieces ? in_order(come) : in_any_order
      https = env['HTTPS']
      env['rack.url_scheme'] = 'https' unless https.nil? || https == '' || https == 'off' || https == '0'
      env
    end

    # What is the same for each request of this connection, with room for what comes, so that it does not have to grow. The
    # two arrays are replaced when an application has used them.
    def template
      @errors = $stderr
      FIRST.to_h { |name| [name, nil] }.merge(
        CONSTANT, @site_values.to_h,
        'rack.multithread' => @server.threaded?, 'rack.errors' => @errors, 'rack.hijack' => self,
        'rack.input' => PassengerLoader.empty_input, 'rack.response_finished' => [], 'rack.after_reply' => []
      )
    end

    # A connection is one worker's, which does not change its ways: its first request shows what they are.
    def in_any_order
      pieces = @buffer.byteslice(Connection::HEADER_BYTES, @body_at - Connection::HEADER_BYTES).split("\0", -1)
      if FIRST.each_with_index.all? { |name, index| pieces[2 * index] == name }
        @is_in_order = true
        remember_site(pieces[10, 8])
        # As they are when they come from the template, so that an application sees no difference.
        [11, 13, 15, 17].each { |at| pieces[at] = -pieces[at] } if @site
      end
      add((@template ||= template).reject { |_, value| value.nil? }, pieces)
    end

    # Most connections' requests are all for one site. What says so is frozen, because all of them share it.
    def remember_site(pieces)
      site = pieces.join("\0") << "\0"
      return if site == @site

      @sites = @sites.to_i + 1
      known = @sites <= MOST_SITES && site.bytesize <= SITE_BYTES
      @site = (site if known)
      @site_values = (pieces.each_slice(2).to_h { |name, value| [name, -value] } if known)
      @format = IN_ORDER[@site&.bytesize]
      @template = nil
    end

    def in_order(come)
      env = @template.dup
      if @site
        _, _, _, _, env['REQUEST_METHOD'], env['SCRIPT_NAME'], env['PATH_INFO'], env['QUERY_STRING'], env['REQUEST_URI'],
          site, env['REMOTE_ADDR'], env['REMOTE_PORT'], rest = @pieces
        return in_any_order unless site == @site
      else
        _, _, _, _, env['REQUEST_METHOD'], env['SCRIPT_NAME'], env['PATH_INFO'], env['QUERY_STRING'], env['REQUEST_URI'],
          env['SERVER_NAME'], env['SERVER_PORT'], env['SERVER_PROTOCOL'], env['SERVER_SOFTWARE'], env['REMOTE_ADDR'],
          env['REMOTE_PORT'], rest = @pieces
      end
      unless come.zero?
        # A head that ends with these names has no end that tells it from the body.
        return in_any_order if rest.bytesize <= come

        rest = rest.byteslice(0, rest.bytesize - come)
      end
      add(env, rest.split("\0", -1))
    end

    # The last of several with the same name wins.
    def add(env, pieces)
      at = 0
      end_at = pieces.size
      while at < end_at
        name = NAMES[pieces[at]]
        name = remember(pieces[at]) if name.nil?
        env[name] = pieces[at + 1] if name
        at += 2
      end
      env
    end

    def remember(name)
      key = !name.start_with?('rack.') && -name
      NAMES[name] = key if NAMES.size < MOST_NAMES
      key
    end
  end
end
